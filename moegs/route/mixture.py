"""A mixture: several experts and the router over them, rendered in one pass and kept in one folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert, finish, load_expert, save_expert
from moegs.gaussians.container import Gaussians, concatenate
from moegs.io import atomic_write, sha256, write_json
from moegs.render.api import Render, rasterize
from moegs.render.camera import Camera
from moegs.route.blend import blend
from moegs.route.routers import VolumePixelRouter, group_tags, router_from_config

FORMAT, VERSION = "moegs-mixture", 1


@dataclass(frozen=True)
class Mixture:
    """Frozen experts by name, in order, and the router over their Gaussians."""

    experts: dict[str, Expert]
    router: VolumePixelRouter

    def __post_init__(self) -> None:
        counts = tuple(len(e) for e in self.experts.values())
        if counts != self.router.counts:
            raise ConfigError(f"mixture: the router was made for {self.router.counts} Gaussians, the experts have {counts}.")


@dataclass(frozen=True)
class MixtureRender:
    """One view of a mixture: the blend and what it was made of.

    ``color`` [h,w,3], ``gates`` [k,h,w], and one image an expert: ``images`` [k,h,w,3], ``depths`` [k,h,w] (accumulated),
    ``alphas`` [k,h,w]; ``maps`` [k,h,w,f] are the splatted router channels.
    """

    color: Tensor
    gates: Tensor
    images: Tensor
    depths: Tensor
    alphas: Tensor
    maps: Tensor | None
    backend: str


def render_mixture(mixture: Mixture, camera: Camera, t: float, *, backend: str = "auto") -> MixtureRender:
    """Render all experts, their router channels and the blend from one rasteriser call (MoE-GS §3.3)."""
    render = render_experts(list(mixture.experts.values()), camera, t, mixture.router.features(t), backend=backend)
    gates = mixture.router.gates(render.features, render.color, render.alpha, camera, t)
    return MixtureRender(
        blend(render.color, gates), gates, render.color, render.depth, render.alpha, render.features, render.backend
    )


def render_experts(
    experts: Sequence[Expert],
    camera: Camera,
    t: float,
    features: Float[Tensor, "n f"] | None = None,
    *,
    now: Sequence[Gaussians] | None = None,
    tiles: Bool[Tensor, "k rows columns"] | None = None,
    backend: str = "auto",
) -> Render:
    """All experts in a single pass: every image of the result has one entry an expert.

    ``features`` are further per-Gaussian channels for the concatenated experts, ``now`` the experts' Gaussians at t if
    they are known already, ``tiles`` the tiles to draw of each expert. Colour decoders are applied.
    """
    now = [e.at(t) for e in experts] if now is None else now
    own = max((g.features.shape[1] for g in now if g.features is not None), default=0)
    merged = concatenate([replace(g, features=_padded(g, own)) for g in now])
    extra = [f for f in (features, merged.features) if f is not None]
    tags = group_tags([len(g) for g in now]).to(merged.means.device)
    render = rasterize(
        replace(merged, features=None), camera, groups=tags, features=torch.cat(extra, dim=-1) if extra else None,
        options=[e.options for e in experts], background=merged.means.new_tensor([e.background for e in experts]),
        tiles=tiles, backend=backend,
    )  # fmt: skip
    return _decoded(experts, render, camera, 0 if features is None else features.shape[1])


def _padded(gaussians: Gaussians, channels: int) -> Tensor | None:
    if channels == 0:
        return None
    if gaussians.features is None:
        return gaussians.means.new_zeros(len(gaussians), channels)
    return torch.nn.functional.pad(gaussians.features, (0, channels - gaussians.features.shape[1]))


def _decoded(experts: Sequence[Expert], render: Render, camera: Camera, n_extra: int) -> Render:
    """Give each expert its own splatted features to decode, and keep the caller's."""
    own = None if render.features is None else render.features[..., n_extra:]
    colors = [
        finish(e, replace(render, color=render.color[k], features=None if own is None else own[k]), camera).color
        for k, e in enumerate(experts)
    ]
    extra = None if n_extra == 0 else render.features[..., :n_extra]
    return replace(render, color=torch.stack(colors), features=extra)


def save_mixture(mixture: Mixture, folder: str | Path, meta: dict[str, Any] | None = None) -> None:
    """Write ``experts/<name>.safetensors``, ``router.safetensors`` and, last, ``manifest.json`` with every file's hash."""
    folder = Path(folder)
    files = []
    for name, expert in mixture.experts.items():
        files.append(f"experts/{name}.safetensors")
        save_expert(expert, folder / files[-1])
    files.append("router.safetensors")
    state = {k: v.detach().cpu().contiguous() for k, v in mixture.router.state_dict().items()}
    with atomic_write(folder / files[-1]) as file:
        file.write(save(state, metadata={"moegs": json.dumps(mixture.router.to_config())}))
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "experts": list(mixture.experts),
        "sha256": {name: sha256(folder / name) for name in files},
        "meta": meta or {},
    }
    write_json(folder / "manifest.json", manifest)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read and check ``manifest.json``.

    Raises:
        FormatError: it is missing, not a mixture's, or from a newer version.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file; a mixture is a folder with manifest.json.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not JSON ({error}).") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise FormatError(f"{path}: expected format {FORMAT!r} version {VERSION}.")
    for field, kind in (("experts", list), ("sha256", dict), ("meta", dict)):
        if not isinstance(manifest.get(field), kind):
            raise FormatError(f"{path}: field {field!r}: expected a {kind.__name__}, got {manifest.get(field)!r}.")
    return manifest


def load_mixture(folder: str | Path, device: str = "cpu", verify: bool = True) -> Mixture:
    """Read what :func:`save_mixture` wrote.

    Raises:
        FormatError: a file is missing, damaged or not the one that the manifest names.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    for name, digest in manifest["sha256"].items() if verify else ():
        if not (folder / name).exists():
            raise FormatError(f"{folder / name}: named in manifest.json but missing.")
        if sha256(folder / name) != digest:
            raise FormatError(f"{folder / name}: its sha256 is not the one in manifest.json; the file was changed.")
    experts = {name: load_expert(folder / f"experts/{name}.safetensors", device) for name in manifest["experts"]}
    return Mixture(experts, load_router(folder / "router.safetensors", device))


def load_router(path: str | Path, device: str = "cpu") -> VolumePixelRouter:
    """Read a router file.

    Raises:
        FormatError: it is missing, damaged, or its tensors do not fit its configuration.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            router = router_from_config(json.loads((file.metadata() or {})["moegs"]))
            router.load_state_dict({k: file.get_tensor(k).clone() for k in file.keys()})  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise FormatError(f"{path}: not a readable router ({error}).") from None
    return router.to(device)
