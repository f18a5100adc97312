"""An expert: one motion prior with its tensors, how to rasterise it, and where it came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moegs._expert_file import check_params, read_header
from moegs.deform import prior as priors
from moegs.errors import FormatError, ShapeError
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params, count
from moegs.io import atomic_write, digest
from moegs.render.api import Render, rasterize
from moegs.render.camera import Camera, rays
from moegs.render.environment import ENVIRONMENT, environment
from moegs.render.types import RasterOptions

FORMAT, VERSION = "moegs-expert", 1


@dataclass(frozen=True, eq=False)
class Expert:
    """A trained (or imported) dynamic scene.

    Attributes:
        prior: the motion prior and its hyper-parameters.
        params: raw tensors. ``environment.picture`` [3, h, w] is drawn behind everything, over a black background, see
            :func:`moegs.render.environment.environment`.
        options: how its Gaussians become pixels.
        background: colour behind everything, RGB in [0, 1].
        decoder: ``"sigmoid"`` or ``"clamp"`` when splatted features pass through the small colour network of
            SpacetimeGaussians' full model (tensors ``decoder.w1`` [6, 12], ``decoder.w2`` [3, 6]); None for plain colours.
        meta: provenance and scene normalisation, JSON-ready.
    """

    prior: priors.Prior
    params: Params
    options: RasterOptions = RasterOptions()
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    decoder: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def at(self, t: float | Tensor, camera: int | None = None) -> Gaussians:
        """The Gaussians at clip-normalised time t in [0, 1]."""
        return self.prior.deform(self.params, t, camera)

    def decode(self, features: Float[Tensor, "h w 9"], rays: Float[Tensor, "h w 6"]) -> Float[Tensor, "h w 3"]:
        """Colour of a splatted feature map (SpacetimeGaussians: albedo plus a two-layer network on the rest and rays)."""
        albedo, rest = features[..., :3], features[..., 3:]
        hidden = torch.relu(torch.cat([rest, rays], dim=-1) @ self.params["decoder.w1"].T)
        color = albedo + hidden @ self.params["decoder.w2"].T
        return torch.sigmoid(color) if self.decoder == "sigmoid" else color.clamp(0.0, 1.0)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(iter(self.params.values())).device

    def to(self, target: torch.device | torch.dtype | str) -> Expert:
        """Move every tensor to a device or dtype."""
        return replace(self, params={k: v.to(target) for k, v in self.params.items()})

    def __len__(self) -> int:
        return count(self.params)

    def __repr__(self) -> str:
        return f"Expert({self.prior.name}, {len(self):,} Gaussians)"


def expert_key(expert: Expert) -> str:
    """A digest of everything that an expert's renders depend on: tensors, prior, raster options, background, decoder."""
    prior = [expert.prior.name, priors.to_config(expert.prior)]
    seen = [digest(expert.params), prior, asdict(expert.options), list(expert.background), expert.decoder]
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def save_expert(expert: Expert, path: str | Path) -> None:
    """Write one ``.safetensors`` file: params as tensors, everything else as JSON in its metadata. Atomic."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "prior": expert.prior.name,
        "config": priors.to_config(expert.prior),
        "options": asdict(expert.options),
        "background": list(expert.background),
        "decoder": expert.decoder,
        "meta": expert.meta,
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in expert.params.items()}
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"moegs": json.dumps(header)}))


def load_expert(path: str | Path, device: str = "cpu") -> Expert:
    """Read what :func:`save_expert` wrote.

    Raises:
        FormatError: the file is missing, cut short, not an expert, from a newer version, or a field of its header or a
            tensor is not what its prior needs.
    """
    path = Path(path)
    params, header = _read(path, device)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise FormatError(f"{path}: expected a {FORMAT} file, its metadata says {str(header)[:60]}.")
    if header.get("version") != VERSION:
        raise FormatError(f"{path}: expected version {VERSION}, got {header.get('version')!r}; update moegs to read it.")
    expert = Expert(params=params, **read_header(path, header))
    check_params(path, expert.prior, params, expert.decoder)
    return expert


def _read(path: Path, device: str) -> tuple[Params, dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("moegs", "{}"))
            # safetensors maps tensors unaligned; matrix products then round differently from freshly made ones
            return {key: file.get_tensor(key).clone().to(device) for key in file.keys()}, header  # noqa: SIM118
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file.") from None
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise FormatError(f"{path}: not a readable safetensors file ({error}).") from None


def render_expert(
    expert: Expert,
    camera: Camera,
    t: float,
    *,
    camera_index: int | None = None,
    probe: Tensor | None = None,
    backend: str = "auto",
) -> Render:
    """Render one expert at clip-normalised time t, through its own raster options and colour decoder.

    ``camera_index`` is the training camera's number for priors that learn a camera offset; ``probe`` is passed on to
    :func:`moegs.render.rasterize`.
    """
    gaussians = expert.at(t, camera_index)
    render = rasterize(
        gaussians, camera, features=gaussians.features, background=expert.background, options=expert.options,
        probe=probe, backend=backend,
    )  # fmt: skip
    return finish(expert, render, camera)


def finish(expert: Expert, render: Render, camera: Camera) -> Render:
    """Apply an expert's colour decoder to its splatted features, and put its environment behind them, if it has these.

    Raises:
        ShapeError: it has one and the render has no features.
    """
    if expert.decoder is not None:
        if render.features is None:
            raise ShapeError(f"expert: its {expert.decoder!r} decoder needs splatted features, this render has none.")
        render = replace(render, color=expert.decode(render.features, rays(camera.like(render.features))))
    if ENVIRONMENT in expert.params:
        behind = environment(expert.params[ENVIRONMENT], rays(camera.like(render.color)))
        render = replace(render, color=render.color + (1 - render.alpha)[..., None] * behind)
    return render
