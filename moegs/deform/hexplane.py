r"""HexPlane: six feature planes over pairs of (x, y, z, t), and a network that reads motion from them (4DGaussians).

A Gaussian with centre p is looked up at (p', t') in every level l; with the six planes P of a level,

    f_l = ∏_P bilinear(P; two of (p', t')),    f = concat_l f_l,    h = trunk(f),    (dx, ds, dq, do, dsh) = heads(h),

and the deltas are added to the raw canonical values before their activations. p' is -1 at the first row of
``plane.aabb`` and +1 at the second. Wu et al., "4D Gaussian Splatting for Real-Time Dynamic Scene Rendering", CVPR
2024.

Tensors beside the canonical ones, and what 4DGaussians' ``deformation.pth`` calls them (prefix ``deformation_net.``):

    plane.aabb [2,3] (buffer)            grid.aabb; the original's rows are (max, min), ours (min, max); either works
    plane.<l>.<p> [1,C,H,W]              grid.grids.<l>.<p>; p = 0…5 for xy xz xt yz yt zt, W along the first of the two
    mlp.trunk.<i>.weight|bias            feature_out.<2 i>.weight|bias
    mlp.<head>.0.*, mlp.<head>.1.*       <original>_deform.1.*, <original>_deform.3.*, with heads means = pos,
                                         scales = scales, quats = rotations, opacities = opacity, sh = shs
    mlp.unit [1] (buffer, may be absent) world units of one unit of dx; the original has one and no such tensor

Tensors of other names (the original's unused ``timenet`` and ``*_poc``) are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from moegs.deform import _networks as networks
from moegs.deform._fields import need, one_of
from moegs.deform._init import base_params
from moegs.deform._planes import PAIRS, sample_planes
from moegs.deform.prior import Prior, Schedule, register
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params

SPACE = tuple(i for i, pair in enumerate(PAIRS) if 3 not in pair)
TIME = tuple(i for i, pair in enumerate(PAIRS) if 3 in pair)
FEWEST_KNOTS = 24  # of time, where there are as many frames: short clips show much motion from one frame to the next


@register
@dataclass(frozen=True)
class HexPlane(Prior):
    """Hyper-parameters of a HexPlane deformation.

    Attributes:
        sh_degree: degree of the colours.
        channels: features per plane.
        resolution: knots along x, y, z and t at level one.
        levels: factors of the spatial resolution, one per level.
        width: hidden features of the network.
        trunk_layers: linear layers before the heads (4DGaussians: ``max(defor_depth, 1)``).
        head_layers: linear layers of each head, 1 or 2 (4DGaussians: 2).
        heads: raw fields that move; 4DGaussians' ``no_dx``… leave some out. Tensors of unused heads may be present.
        color_coefficients: harmonics that a fresh colour head moves.
        time_axis: ``"full"`` spreads t in [0, 1] over the planes' whole time axis; ``"upper"`` is the original, which
            hands t itself to a sampler that expects [-1, 1] and so reads only the upper half.
        deforming: False in the coarse stage, where Gaussians stay at rest.
        coarse_until: fraction of the run that the coarse stage takes.
        plane_tv, time_smoothness, time_l1: weights of the three plane losses.
        tv_axes: ``"both"`` smooths the spatial planes along both axes; ``"second"`` is the original, along one only.
        zero_heads: start without any motion; the original starts with random motion.
        bounds_quantile: share of the cloud left outside the planes' box on each side of each axis; 0 as the original.
        unit: world units of one unit of the position head; 0 takes a tenth of the box's longest side, 1 is the
            original.
        initial_opacity: first opacity of every Gaussian.
        lr_*: learning rates, those ending in ``_final`` at the end of the run; that of means is multiplied by the
            extent of the scene, that of ``sh_rest`` is a twentieth of that of ``sh_dc``.
        rates_by_extent: multiply the rates of planes and network by the extent too, as the original does.
    """

    name: ClassVar[str] = "hexplane"
    fades: ClassVar[bool] = False

    sh_degree: int = 3
    channels: int = 16
    resolution: tuple[int, int, int, int] = (64, 64, 64, 150)
    levels: tuple[int, ...] = (1, 2)
    width: int = 128
    trunk_layers: int = 1
    head_layers: int = 2
    heads: tuple[str, ...] = networks.HEADS
    color_coefficients: int = 16
    time_axis: str = "full"
    deforming: bool = True
    coarse_until: float = 3 / 17
    plane_tv: float = 2e-4
    time_smoothness: float = 1e-3
    time_l1: float = 1e-4
    tv_axes: str = "both"
    zero_heads: bool = True
    bounds_quantile: float = 0.01
    unit: float = 0.0
    initial_opacity: float = 0.1
    lr_means: float = 1.6e-4
    lr_means_final: float = 1.6e-6
    lr_planes: float = 1e-2
    lr_planes_final: float = 1e-3
    lr_mlp: float = 1e-3
    lr_mlp_final: float = 1e-4
    lr_quats: float = 1e-3
    lr_scales: float = 5e-3
    lr_opacities: float = 0.05
    lr_sh: float = 2.5e-3
    rates_by_extent: bool = False

    def __post_init__(self) -> None:
        networks.check_heads(self.name, self.heads)
        one_of(self.name, "time_axis", self.time_axis, ("full", "upper"))
        one_of(self.name, "tv_axes", self.tv_axes, ("both", "second"))

    @classmethod
    def n3v(cls) -> HexPlane:
        """The published recipe for Neural 3D Video (300 frames, 3,000 coarse and 14,000 fine steps)."""
        return cls(
            time_axis="upper",
            tv_axes="second",
            zero_heads=False,
            bounds_quantile=0.0,
            unit=1.0,
            lr_planes=1.6e-3,
            lr_planes_final=1.6e-4,
            lr_mlp=1.6e-4,
            lr_mlp_final=1.6e-5,
            rates_by_extent=True,
        )

    @classmethod
    def technicolor(cls) -> HexPlane:
        """Technicolor (50 frames). The authors publish no such recipe: ours for N3V with a shorter time axis."""
        return cls(resolution=(64, 64, 64, 25))

    @classmethod
    def for_clip(cls, n_frames: int) -> HexPlane:
        """A small model for short clips on a CPU, with rates for few steps.

        A knot of time for every second frame, but one for every frame where those would be fewer than 24.
        """
        return cls(
            sh_degree=1,
            resolution=(32, 32, 32, max(n_frames // 2, min(n_frames, FEWEST_KNOTS), 2)),
            width=64,
            head_layers=1,
            color_coefficients=1,
            coarse_until=0.1,
            lr_means=7.5e-4,
            lr_means_final=7.5e-6,
            lr_planes=1.5e-2,
            lr_planes_final=1.5e-3,
            lr_mlp=3e-3,
            lr_mlp_final=3e-4,
            lr_quats=1.5e-3,
            lr_scales=7.5e-3,
            lr_opacities=0.075,
            lr_sh=3.75e-3,
        )

    def init(self, cloud: PointCloud, generator: torch.Generator | None = None) -> Params:
        """Canonical Gaussians on the points, planes near one and a network that moves nothing yet."""
        box = _bounds(cloud.points, self.bounds_quantile)
        unit = self.unit or 0.1 * float((box[1] - box[0]).max())
        network = networks.init_network(
            "mlp.",
            self.channels * len(self.levels),
            width=self.width,
            layers=(self.trunk_layers, self.head_layers),
            coefficients=self.color_coefficients,
            zero_last=self.zero_heads,
            generator=generator,
        )
        buffers = {"plane.aabb": box, "mlp.unit": torch.tensor([unit])}
        return (
            base_params(cloud, self.sh_degree, self.initial_opacity) | buffers | _init_planes(self, generator) | network
        )

    def deform(self, params: Params, t: float | Tensor, camera: int | None = None) -> Gaussians:
        """The Gaussians at time t; every camera sees the same."""
        return deform(params, t, self)

    def regularise(self, params: Params, t: float | Tensor) -> Float[Tensor, ""]:
        """The three plane losses; none during the coarse stage."""
        if not self.deforming:
            return params["gaussian.means"].new_zeros(())
        planes = [params[name] for name in _plane_names(params, TIME)]
        loss = self.plane_tv * spatial_variation(params, both=self.tv_axes == "both")
        loss = loss + self.time_smoothness * sum(second_difference(p, -2) for p in planes)
        return loss + self.time_l1 * sum((1 - p).abs().mean() for p in planes)

    def param_groups(self, params: Params, extent: float) -> dict[str, Schedule]:
        """Canonical tensors throughout; planes and network once the coarse stage is over."""
        scale = extent if self.rates_by_extent else 1.0
        planes = Schedule(self.lr_planes * scale, self.lr_planes_final * scale, self.coarse_until)
        mlp = Schedule(self.lr_mlp * scale, self.lr_mlp_final * scale, self.coarse_until)
        shared = dict.fromkeys(_plane_names(params, range(len(PAIRS))), planes)
        shared |= dict.fromkeys(networks.trained(params, "mlp.", self.heads), mlp)
        return networks.canonical_rates(params, self, extent) | shared

    def at_step(self, step: int, steps: int) -> HexPlane:
        """At rest while the coarse stage lasts, then moving."""
        return replace(self, deforming=self.deforming and step >= min(self.coarse_until, 1.0) * steps)


def deform(params: Params, t: float | Tensor, config: HexPlane) -> Gaussians:
    """The Gaussians at clip-normalised time t.

    Args:
        params: see the module's description.
        t: a number or a tensor of one element; differentiable.
        config: hyper-parameters.
    """
    raw = networks.canonical(params)
    if not config.deforming:
        return networks.activate(raw)
    first = networks.linear(params, "mlp.trunk.0", plane_features(params, t, config))
    deltas = networks.run(params, "mlp.", first, config.heads)
    return networks.activate(networks.add(raw, deltas, {"means": params["mlp.unit"]} if "mlp.unit" in params else None))


def plane_features(params: Params, t: float | Tensor, config: HexPlane) -> Float[Tensor, "n f"]:
    """What the planes know about every Gaussian at time t: a product over planes, side by side over levels."""
    means = need(params, "gaussian.means")
    start, end = need(params, "plane.aabb").unbind(0)
    place = (means - start) * (2 / (end - start)) - 1
    time = torch.as_tensor(t, dtype=means.dtype, device=means.device).reshape(1, 1).expand(len(means), 1)
    coords = torch.cat([place, time if config.time_axis == "upper" else 2 * time - 1], dim=1)
    return sample_planes(_planes(params), coords)


def spatial_variation(params: Params, both: bool = True) -> Float[Tensor, ""]:
    """Roughness of the planes without time: mean squared second difference, summed over planes and levels.

    Args:
        params: raw parameters of a HexPlane expert.
        both: average the two axes; otherwise only the second axis named (z or y), as 4DGaussians does.
    """
    planes = [params[name] for name in _plane_names(params, SPACE)]
    second = torch.stack([second_difference(p, -2) for p in planes]).sum()
    return 0.5 * (second + torch.stack([second_difference(p, -1) for p in planes]).sum()) if both else second


def second_difference(plane: Float[Tensor, "1 c h w"], dim: int) -> Float[Tensor, ""]:
    """Mean squared second difference along dimension -1 or -2 (zero when it has fewer than three knots)."""
    return plane.new_zeros(()) if plane.shape[dim] < 3 else _SecondDifference.apply(plane, dim)


class _SecondDifference(torch.autograd.Function):
    """Written out because autograd pads and adds three full planes for it, which costs more than all the rest."""

    @staticmethod
    def forward(ctx: Any, plane: Tensor, dim: int) -> Tensor:
        before, here, after = (plane.narrow(dim, i, plane.shape[dim] - 2) for i in range(3))
        differences = (before + after).sub_(here, alpha=2)
        ctx.save_for_backward(differences)
        ctx.dim = dim
        return differences.square().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (differences,) = ctx.saved_tensors
        dim, inner = ctx.dim, differences.shape[ctx.dim]
        share = differences * (upstream * 2 / differences.numel())
        gradient = F.pad(share, (0, 2) if dim == -1 else (0, 0, 0, 2))
        gradient.narrow(dim, 1, inner).sub_(share, alpha=2)
        gradient.narrow(dim, 2, inner).add_(share)
        return gradient, None


def _planes(params: Params) -> list[list[Tensor]]:
    levels = sum(name.startswith("plane.") and name.endswith(".0") for name in params)
    return [[params[f"plane.{level}.{i}"] for i in range(len(PAIRS))] for level in range(levels)]


def _plane_names(params: Params, which: tuple[int, ...] | range) -> list[str]:
    return [f"plane.{level}.{i}" for level in range(len(_planes(params))) for i in which]


def _init_planes(config: HexPlane, generator: torch.Generator | None) -> Params:
    """Space planes uniform in [0.1, 0.5]; planes with time one, where they change nothing."""
    planes = {}
    for level, factor in enumerate(config.levels):
        knots = [r * factor for r in config.resolution[:3]] + [config.resolution[3]]
        for i, (a, b) in enumerate(PAIRS):
            shape = (1, config.channels, knots[b], knots[a])
            fresh = torch.ones(shape) if b == 3 else 0.1 + 0.4 * torch.rand(shape, generator=generator)
            planes[f"plane.{level}.{i}"] = fresh.contiguous(memory_format=torch.channels_last)
    return planes


def _bounds(points: Float[Tensor, "n 3"], quantile: float) -> Float[Tensor, "2 3"]:
    """Box around the points, lower corner first; a flat cloud gets a box of unit thickness."""
    ordered = points.sort(dim=0).values
    skip = int(quantile * (len(points) - 1))
    low, high = ordered[skip], ordered[len(points) - 1 - skip]
    pad = torch.where(high > low, torch.zeros_like(low), 0.5)
    return torch.stack([low - pad, high + pad])
