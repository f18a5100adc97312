"""The volume router: weights that dim Gaussians in one merged scene, without gates at pixels (MoE-GS, table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moegs.deform.fused import Fused, dimmed, merge
from moegs.errors import ConfigError, ShapeError
from moegs.expert import Expert
from moegs.gaussians.container import Gaussians, concatenate
from moegs.gaussians.densify import field
from moegs.render.api import Render, rasterize
from moegs.render.camera import Camera
from moegs.render.types import RasterOptions
from moegs.route.fuse import check_plain, with_factor

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.train.route import RouteConfig


class VolumeRouter(nn.Module):
    """Per-Gaussian weights ``sigmoid(weights_i + t times_i)`` that scale opacity in the union of all experts.

    There is no softmax: nothing makes the experts' weights sum to one, and the union is rendered as one scene, in which
    Gaussians of different experts hide one another.

    Args:
        counts: number of Gaussians of each expert, in order.
        initial_weight: start of ``weights``.

    Example:
        >>> router = VolumeRouter([2, 1])
        >>> router.factors(0.5).tolist()
        [0.5, 0.5, 0.5]
    """

    def __init__(self, counts: Sequence[int], initial_weight: float = 0.0):
        super().__init__()
        self.counts = tuple(int(n) for n in counts)
        self.weights = nn.Parameter(torch.full((sum(self.counts),), float(initial_weight)))
        self.times = nn.Parameter(torch.zeros(sum(self.counts)))

    def factors(self, t: float) -> Float[Tensor, "n"]:
        """Factors in (0, 1) at clip-normalised time t, for the Gaussians of all experts in order."""
        return torch.sigmoid(self.weights + t * self.times)

    def merge(self, gaussians: Sequence[Gaussians], t: float) -> Gaussians:
        """The union of the experts' Gaussians with scaled opacities.

        Raises:
            ShapeError: the numbers of Gaussians are not those that the router was made for.
        """
        if tuple(len(g) for g in gaussians) != self.counts:
            raise ShapeError(f"router: expected {list(self.counts)} Gaussians, got {[len(g) for g in gaussians]}.")
        union = concatenate([replace(g, features=None) for g in gaussians])
        return replace(union, opacities=dimmed(union.opacities, self.factors(t), "opacity"))

    def forward(
        self,
        gaussians: Sequence[Gaussians],
        camera: Camera,
        t: float,
        *,
        options: RasterOptions = RasterOptions(),
        background: Sequence[float] = (0.0, 0.0, 0.0),
        backend: str = "auto",
    ) -> Render:
        """Render the merged scene."""
        return rasterize(self.merge(gaussians, t), camera, options=options, background=background, backend=backend)


def volume_expert(experts: dict[str, Expert], router: VolumeRouter) -> Expert:
    """Experts and their volume router as one ordinary dynamic model, to be rendered, evaluated and saved as any other.

    Where raster options or backgrounds differ, those of the expert with the most Gaussians are taken for all.

    Raises:
        ConfigError: an expert has a colour decoder, or the router was made for other numbers of Gaussians.
    """
    check_plain(experts)
    counts = tuple(len(e) for e in experts.values())
    if counts != router.counts:
        raise ConfigError(f"volume_expert: the router was made for {router.counts} Gaussians, not for {counts}.")
    pieces = zip(router.weights.detach().split(counts), router.times.detach().split(counts), strict=True)
    parts = [
        with_factor(with_factor(e.params, "volume_weights", weights), "volume_times", times)
        for e, (weights, times) in zip(experts.values(), pieces, strict=True)
    ]
    lead = max(experts.values(), key=len)
    prior = Fused.of([e.prior for e in experts.values()], train="volume")
    return Expert(prior, merge(parts), lead.options, lead.background, None, lead.meta | {"merged": list(experts)})


def volume_router_of(expert: Expert, counts: Sequence[int]) -> VolumeRouter:
    """The router inside what :func:`volume_expert` made.

    Raises:
        ConfigError: the expert has no volume weights.
    """
    if not any(name.endswith(".volume_weights") for name in expert.params):
        raise ConfigError("volume_router_of: the expert has no volume weights; make one with volume_expert().")
    router = VolumeRouter(counts)
    with torch.no_grad():
        router.weights.copy_(field(expert.params, "volume_weights"))
        router.times.copy_(field(expert.params, "volume_times"))
    return router


def fit_volume_router(
    scene: Scene,
    experts: dict[str, Expert],
    config: RouteConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> Expert:
    """Train a volume router over frozen experts, in the loop that trains experts.

    Args:
        scene: the clip that the experts were trained on.
        experts: frozen experts by name.
        config: length and rates, as for :func:`moegs.train.fit_router`; the shape of the pixel router is not used.
        out: folder for checkpoint and metrics; nothing is written without it.
        resume: continue from the checkpoint in ``out``.
        cameras: train on these cameras only.
        progress: show a bar.

    Returns:
        The merged model with its trained weights; see :func:`volume_router_of`.
    """
    from moegs.train.fit import FitConfig, fit_expert

    router = VolumeRouter([len(e) for e in experts.values()], config.router.initial_weight)
    start = volume_expert(experts, router)
    rates = {"lr_weights": config.lr_weights, "lr_times": config.lr_time, "lr_decay": config.decay}
    prior = Fused.of([e.prior for e in experts.values()], train="volume", **rates)
    fit = FitConfig(
        steps=config.steps, lambda_dssim=config.lambda_dssim, densify_every=config.steps + 1, densify_until=0.0,
        background=start.background, options=start.options, seed=config.seed, checkpoint_every=config.checkpoint_every,
    )  # fmt: skip
    fitted = fit_expert(
        scene, prior, fit, out=out, resume=resume, cameras=cameras, start=start.params, progress=progress
    )
    return replace(fitted, meta=start.meta | {"router steps": config.steps})
