"""The volume router: weights that dim Gaussians in one merged scene, without gates at pixels (MoE-GS, table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moegs.deform.fused import Fused, dimmed, merge
from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians.container import Gaussians
from moegs.gaussians.densify import field
from moegs.render.api import Render, rasterize
from moegs.render.camera import Camera
from moegs.render.types import RasterOptions
from moegs.route.fuse import check_plain, with_factor
from moegs.route.routers import checked_counts, union


class VolumeRouter(nn.Module):
    """Per-Gaussian weights ``sigmoid(weights_i + t times_i)`` that scale opacity in the union of all experts.

    There is no softmax: nothing makes the experts' weights sum to one, and the union is rendered as one scene, in which
    Gaussians of different experts hide one another. It is what ``--router volume`` and the tables mean; a
    :class:`moegs.route.VolumePixelRouter` of ``RouterConfig(kind="volume")`` is another thing: gates at pixels from
    splatted weights.

    Args:
        counts: number of Gaussians of each expert, in order.
        initial_weight: start of ``weights``.

    Raises:
        ConfigError: the numbers are none.

    Example:
        >>> router = VolumeRouter([2, 1])
        >>> router.factors(0.5).tolist()
        [0.5, 0.5, 0.5]
    """

    def __init__(self, counts: Sequence[int], initial_weight: float = 0.0):
        super().__init__()
        self.counts = checked_counts(counts)
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
        merged = union(gaussians, self.counts)
        return replace(merged, opacities=dimmed(merged.opacities, self.factors(t), "opacity"))

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
