"""MoE-GS stage 2: experts with router columns in one folder, and the pixel MLP that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.deform.interpolation import LINEAR, SPLINE
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert
from moegs.gaussians.ply import stack
from moegs.gaussians.vertices import read_vertices
from moegs.interop import ed3dgs, ex4dgs, four_d_gaussians, spacetime
from moegs.interop._canonical import ROUTER_NAMES, WHITE
from moegs.interop._cfg_args import Config
from moegs.interop._chunks import join_chunks
from moegs.interop._detect import stage2_root
from moegs.interop._files import Run, config_in, find_run
from moegs.interop._tensors import expect, load_state

PROJECT = "MoE-GS"
_MLP = {"mlp1": (6, 8), "mlp2": (3, 6), "mlp3": (1, 3)}
_READERS: dict[str, Callable[..., Expert]] = {
    "Ex4DGS": ex4dgs.load,
    "E-D3DGS": ed3dgs.load,
    "STG": spacetime.load,
    "4DGaussians": four_d_gaussians.load,
}  # in the order in which the authors stack them, which is that of the softmax
OPTIONS = {
    "Ex4DGS": "ex4dgs", "ED3DGS": "e-d3dgs", "STG": "spacetime", "4DGaussians": "4dgaussians",
}  # names under which options of single experts are given, and their formats  # fmt: skip
_HALVES = ("0to149", "150to299")  # SpacetimeGaussians on N3V: two models, of which the frame number chooses one


@dataclass(frozen=True)
class ImportedMixture:
    """A mixture that the authors' code trained.

    Attributes:
        names: one a expert, in the order of the softmax.
        experts: the frozen experts, in the same order.
        weights: per expert ``[n, 3]``: base weight ``w_b_0``, view weight ``w_b_1`` and time weight ``f_t``, raw; the
            splatted vector at time t is ``(w_b_0, w_b_1, t f_t)``. Rows are in the order of the expert's Gaussians.
        mlp: ``mlp1`` [6, 8], ``mlp2`` [3, 6] and ``mlp3`` [1, 3] of the pixel network, all without bias; its input is
            (view, time, ray origin, ray direction) and its output is added to the base weight.
        temperature: of the softmax in the authors' training; their test renders use 1.
        background: what their weight maps are splatted over.
        meta: provenance, JSON-ready.
    """

    names: tuple[str, ...]
    experts: tuple[Expert, ...]
    weights: tuple[Float[Tensor, "n 3"], ...]
    mlp: dict[str, Tensor]
    temperature: float = 0.01
    background: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)

    def motion_mask(self, expert: int, t: float) -> Float[Tensor, "n 3"]:
        """What is splatted for an expert at clip-normalised time t: base, view and time weight of each Gaussian."""
        scale = torch.tensor([1.0, 1.0, t], dtype=self.weights[expert].dtype)
        return self.weights[expert] * scale

    def pixel_weight(self, splatted: Float[Tensor, "3 h w"], rays: Float[Tensor, "6 h w"]) -> Float[Tensor, "h w"]:
        """Logit of one expert from its splatted weights and the ray map (origin, unit direction)."""
        hidden = torch.cat([splatted[1:], rays]).movedim(0, -1)
        for name in ("mlp1", "mlp2"):
            hidden = torch.relu(hidden @ self.mlp[name].T)
        return splatted[0] + (hidden @ self.mlp["mlp3"].T)[..., 0]


def load(path: str | Path, *, iteration: int | None = None, **options: Any) -> ImportedMixture:
    """Read a mixture of stage 2.

    Args:
        path: its folder, in which the experts' folders ``Ex4DGS``, ``E-D3DGS``, ``STG``, ``4DGaussians`` lie.
        iteration: which saved iteration; the last by default.
        options: of single experts, as a dict under the expert's name with ``-`` left out: ``Ex4DGS={"duration": 313}``.

    Raises:
        FormatError: a file or tensor is missing, damaged or of the wrong shape, or there are fewer than two experts.
        ConfigError: an option is unknown.
    """
    root = stage2_root(path)
    if unknown := sorted(set(options) - set(OPTIONS)):
        known = ", ".join(["iteration", *OPTIONS])
        raise ConfigError(f"option {unknown[0]!r} is not known for {PROJECT}; it knows {known}.")
    config = config_in(root)
    found = [(name, _runs(root / name, iteration, config)) for name in _READERS if (root / name).is_dir()]
    if len(found) < 2:
        raise FormatError(f"{root}: expected folders of two or more of {', '.join(_READERS)}, got {len(found)}.")
    mlp_from = next((run for _, runs in found for run in runs if run.has("point_cloud.pt")), None)
    if mlp_from is None:
        raise FormatError(f"{root}: point_cloud.pt with the pixel network is in none of the experts' folders.")
    return ImportedMixture(
        names=tuple(name for name, _ in found),
        experts=tuple(_expert(name, runs, options) for name, runs in found),
        weights=tuple(torch.cat([_weights(run) for run in runs]) for _, runs in found),
        mlp=_mlp(mlp_from),
        temperature=float(config.number("temperature", 0.01)),
        meta={"source": PROJECT, "iteration": found[0][1][0].iteration},
    )


def _runs(folder: Path, iteration: int | None, config: Config) -> list[Run]:
    """The run of an expert, or those of its halves in order."""
    halves = [folder / half for half in _HALVES]
    if not any(half.is_dir() for half in halves):
        return [find_run(folder, iteration).with_config(config)]
    if missing := [half for half in halves if not half.is_dir()]:
        raise FormatError(f"{missing[0]}: no such folder; an expert that comes in halves needs both.")
    runs = [find_run(half, iteration).with_config(config) for half in halves]
    if len({run.iteration for run in runs}) > 1:
        found = " and ".join(str(run.iteration) for run in runs)
        raise FormatError(f"{folder}: its halves are of iterations {found}; choose one that both have with 'iteration'.")
    return runs


def _expert(name: str, runs: list[Run], options: dict[str, Any]) -> Expert:
    own = dict(options.get(name.replace("-", ""), {}))
    if len(runs) == 1:
        return _stg(runs[0], own) if name == "STG" else _READERS[name](runs[0], router=True, **own)
    if name != "STG":
        raise FormatError(f"{runs[0].root.parent}: only STG comes in halves, not {name}.")
    if "chunk" in own:
        raise ConfigError("option 'chunk' of STG: its two halves say themselves what they cover; leave it out.")
    parts = [_stg(run, own | {"chunk": (i, len(runs))}) for i, run in enumerate(runs)]
    try:
        return join_chunks(parts)
    except ConfigError as error:
        raise FormatError(f"{runs[0].root.parent}: {error}") from None


def _stg(run: Run, own: dict[str, Any]) -> Expert:
    """SpacetimeGaussians with harmonics goes through Ex4DGS's rasteriser in stage 2."""
    near, far, eps2d = (run.config.number(*v) for v in (("near", 0.01), ("far", 300.0), ("kernel_size", 0.1)))
    expert = spacetime.load(run, router=True, **own)
    options = replace(expert.options, eps2d=float(eps2d), compensate=True, near=float(near), far=float(far))
    return replace(
        expert, options=options, background=WHITE if run.config.flag("white_background", False) else (0, 0, 0)
    )


def _weights(run: Run) -> Float[Tensor, "n 3"]:
    """Router columns of a file, or of both files of Ex4DGS, static Gaussians first."""
    files = [(LINEAR, run.ply, "")]
    if run.has(ex4dgs.DYNAMIC):
        files.append((SPLINE, run.file(ex4dgs.DYNAMIC), "motion_"))
    late, base, view = ROUTER_NAMES
    parts = [stack(read_vertices(path), *(prefix + n for n in (base, view, late))) for _, path, prefix in files]
    return torch.cat(parts)


def _mlp(run: Run) -> dict[str, Tensor]:
    path = run.file("point_cloud.pt")
    state = load_state(path)
    if extra := sorted(set(state) - {f"{name}.weight" for name in _MLP}):
        raise FormatError(f"{path}: tensor {extra[0]!r} is not known; expected {', '.join(_MLP)} without bias.")
    weights = {n: expect(path, f"{n}.weight", state.get(f"{n}.weight"), *shape, 1, 1) for n, shape in _MLP.items()}
    return {name: weight[:, :, 0, 0].contiguous() for name, weight in weights.items()}
