"""Sparse gates: tiles in which an expert's gate is negligible are not drawn for that expert.

A small picture of the router's channels comes first; it says which experts matter where. The full-size pass then draws
every expert only in the tiles of 16×16 pixels where its gate can reach ``min_gate``. Leaving expert k out changes a pixel
by ``G_k |I_k - I'|`` with gate G_k and I' the blend of the others, so dropping gates below ``min_gate`` in a mixture of K
changes it by at most ``(K - 1) min_gate`` times the largest difference between two experts, as far as the small picture
saw the gates right. Where a router sees other experts' colours or pixels around its own, those of experts that were not
drawn come from the small picture, and so do the errors of their gates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians.container import Gaussians
from moegs.render.api import Render
from moegs.render.camera import Camera
from moegs.render.types import TILE
from moegs.route.blend import gated_blend
from moegs.route.mixture import Mixture
from moegs.route.render import MixtureRender, render_experts
from moegs.route.routers import RouterConfig

SHRINK = 4  # side of a full-size pixel block that one pixel of the small picture stands for


@dataclass(frozen=True, eq=False)
class SparseRender(MixtureRender):
    """A blend from the experts that matter. ``tiles`` [k, rows, columns] says who was drawn where."""

    tiles: Tensor | None = None

    @property
    def share(self) -> float:
        """Fraction of all (expert, tile) pairs that were drawn."""
        return 1.0 if self.tiles is None else float(self.tiles.float().mean())


def render_sparse(
    mixture: Mixture, camera: Camera, t: float, min_gate: float = 0.05, *, backend: str = "auto"
) -> SparseRender:
    """Render a mixture and skip experts in the tiles where their gate stays below ``min_gate``.

    Args:
        mixture: experts and router.
        camera: where from.
        t: clip-normalised time.
        min_gate: 0 draws everything.
        backend: rasteriser.

    Raises:
        ConfigError: ``min_gate`` is not in [0, 1/K); with K experts one of them always reaches 1/K.
    """
    if not 0 <= min_gate < 1 / len(mixture.experts):
        raise ConfigError(f"min_gate: expected 0 to below 1/{len(mixture.experts)}, got {min_gate}.")
    now = [e.at(t) for e in mixture.experts.values()]
    small = _small(mixture, now, camera, t, backend)
    tiles = _active(mixture, small, camera, t, min_gate)
    experts = list(mixture.experts.values())
    render = render_experts(experts, camera, t, mixture.router.features(t), now=now, tiles=tiles, backend=backend)
    hidden = ~_pixels(tiles, camera)
    seen = _filled(render, small, hidden) if _sees_others(mixture.router.config) else render
    logits = mixture.router.logits(seen.features, seen.color, seen.alpha, camera, t)
    color, gates = gated_blend(render.color, logits.masked_fill(hidden, -torch.inf), mixture.router.config.temperature)
    return SparseRender(
        color, gates, render.color, render.depth, render.alpha, render.features, render.backend, tiles
    )  # fmt: skip


def active_tiles(
    mixture: Mixture, now: list[Gaussians], camera: Camera, t: float, min_gate: float, backend: str = "auto"
) -> Bool[Tensor, "k rows columns"]:
    """Tiles of 16×16 pixels where an expert's gate reaches ``min_gate`` in the small picture, or where it is the strongest.

    Args:
        mixture: experts and router.
        now: the experts' Gaussians at t.
        camera: of the full-size picture.
        t: clip-normalised time.
        min_gate: in [0, 1/K).
        backend: rasteriser.
    """
    return _active(mixture, _small(mixture, now, camera, t, backend), camera, t, min_gate)


def _shrunk(camera: Camera) -> Camera:
    return camera.resized(-(-camera.width // SHRINK), -(-camera.height // SHRINK))


def _small(mixture: Mixture, now: list[Gaussians], camera: Camera, t: float, backend: str) -> Render:
    experts: list[Expert] = list(mixture.experts.values())
    if not _sees_colors(mixture.router.config):  # harmonics are most of what there is to read of a Gaussian
        now = [replace(g, sh=g.sh[:, :1]) for g in now]
    return render_experts(experts, _shrunk(camera), t, mixture.router.features(t), now=now, backend=backend)


def _active(mixture: Mixture, small: Render, camera: Camera, t: float, min_gate: float) -> Bool[Tensor, "k rows columns"]:
    gates = mixture.router.gates(small.features, small.color, small.alpha, _shrunk(camera), t)
    return _reach(gates, camera) >= min(min_gate, 1 / len(mixture.experts))


def _sees_colors(config: RouterConfig) -> bool:
    return "color" in config.inputs


def _sees_others(config: RouterConfig) -> bool:
    """Whether a gate depends on more than its own expert's pixel."""
    return _sees_colors(config) or config.context > 1


def _filled(render: Render, small: Render, hidden: Bool[Tensor, "k h w"]) -> Render:
    """What was not drawn, from the small picture."""

    def fill(large: Tensor, little: Tensor) -> Tensor:
        grown = torch.nn.functional.interpolate(little.movedim(-1, 1), size=large.shape[1:3], mode="bilinear")
        return torch.where(hidden[..., None], grown.movedim(1, -1), large)

    features = None if render.features is None or small.features is None else fill(render.features, small.features)
    alpha = fill(render.alpha[..., None], small.alpha[..., None])[..., 0]
    return replace(render, color=fill(render.color, small.color), alpha=alpha, features=features)


def _reach(gates: Float[Tensor, "k h w"], camera: Camera) -> Float[Tensor, "k rows columns"]:
    """Largest gate over each tile and one small pixel around it."""
    side = TILE // SHRINK
    rows, columns = -(-camera.height // TILE), -(-camera.width // TILE)
    wide = torch.nn.functional.max_pool2d(gates, 3, stride=1, padding=1)
    missing = (0, columns * side - gates.shape[2], 0, rows * side - gates.shape[1])
    return torch.nn.functional.max_pool2d(torch.nn.functional.pad(wide, missing), side)


def _pixels(tiles: Bool[Tensor, "k rows columns"], camera: Camera) -> Bool[Tensor, "k h w"]:
    full = tiles.repeat_interleave(TILE, dim=1).repeat_interleave(TILE, dim=2)
    return full[:, : camera.height, : camera.width]
