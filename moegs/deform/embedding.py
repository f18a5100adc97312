r"""Per-Gaussian embeddings: one network moves every Gaussian by its own code and the code of the moment (E-D3DGS).

With the code e of a Gaussian, the camera's time offset o and the codes z of the moment at coarse and fine resolution,

    τ = t + o,    deltas = net_coarse([z_coarse(τ); e]) + net_fine([z_fine(τ); e]),

and the deltas are added to the raw canonical values before their activations. z(τ) interpolates the rows of one matrix,
resized to few rows for the coarse network and to more and more for the fine one; beyond the clip's ends it reflects.
Bae et al., "Per-Gaussian Embedding-Based Deformation for Deformable 3D Gaussian Splatting", ECCV 2024.

Tensors beside the canonical ones, and what E-D3DGS calls them in ``point_cloud.ply`` and ``deformation.pth``:

    gaussian.embeddings [n,E]            embedding_0 … embedding_31
    temporal.weight [M,T]                weight
    camera.offsets [c,1]                 offsets (row = number of the camera)
    mlp.coarse.trunk.<i>.weight|bias     feature_out_c.<2 i>.weight|bias (columns: temporal code first)
    mlp.coarse.<head>.0.*, …<head>.1.*   <original>_deform_c.1.*, <original>_deform_c.3.*, with heads means = pos,
                                         scales = scales, quats = rotations, opacities = opacity, sh = rgb
    mlp.fine.…                           the same with _f
    mlp.unit [1] (buffer, may be absent) world units of one unit of the position heads; the original has one, unnamed

What a checkpoint before the end of its run rendered is ``prior.at_step(iteration, iterations)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from moegs.deform import _networks as networks
from moegs.deform._fields import need
from moegs.deform._init import base_params
from moegs.deform._neighbours import roughness
from moegs.deform.prior import Prior, Schedule, register
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params

STAGES = ("coarse", "fine")


@register
@dataclass(frozen=True)
class Embedding(Prior):
    """Hyper-parameters of a deformation by per-Gaussian embeddings.

    Attributes:
        sh_degree: degree of the colours.
        gaussian_size, temporal_size: length of a Gaussian's and of a moment's code.
        rows: rows of the temporal matrix (``max_embeddings``).
        coarse_rows: rows that the coarse network sees, and that the fine one starts from (``min_embeddings``).
        fine_rows: rows that the fine network sees now; 0 for all.
        grow_until: fraction of the run over which they grow from ``coarse_rows`` to all; 0 for all from the start.
        stages: networks that take part.
        width, trunk_layers, head_layers: shape of each network (E-D3DGS: 128, ``max(defor_depth, 1)``, 2).
        heads: raw fields that move; E-D3DGS' ``no_dc``… leave some out. Tensors of unused heads may be present.
        color_coefficients: harmonics that a fresh colour head moves.
        cameras: rows of time offsets. A camera without a row, and an unnamed one, gets the mean of the offsets that
            differ from zero.
        gain, late_gain: factors of the deltas now: positions and rotations by the first, colours by the second, scales
            and opacities by both.
        anneal: fraction of the run over which each factor rises from 0 to 1; 0 for never below 1.
        late_start: fraction of the run at which the second begins to rise.
        zero_heads: start without any motion; the original starts with random motion.
        temporal_std: standard deviation of the fresh temporal codes.
        smoothness: weight of the embeddings' difference between neighbours,
            mean of sqrt(w |e_i - e_j|^2) over the nearest neighbours j of each Gaussian i.
        neighbours, patch: neighbours per Gaussian, and Gaussians looked at per call. 0 looks at all of them, as the
            original does from a graph that it keeps between densifications; ours is found afresh each time.
        falloff: w = exp(-falloff d^2) with the distance d in world units, as the original; 0 measures d in multiples of
            the median distance between neighbours instead, which does not depend on the world's units.
        draw: number of the current patch.
        opacity_weight: weight of the mean opacity.
        opacity_of_mean: take the opacity of the mean logit, as the original, instead of the mean opacity.
        temporal_tv: weight of the mean squared difference between successive temporal codes (0 in the original).
        unit: world units of one unit of the position heads; 0 takes a tenth of the cloud's longest side, 1 is the
            original.
        initial_opacity: first opacity of every Gaussian.
        lr_*: learning rates, those ending in ``_final`` at the end of the run; that of means is multiplied by the
            extent of the scene, that of ``sh_rest`` is a twentieth of that of ``sh_dc``. A rate of 0 leaves out.
        rates_by_extent: multiply the rates of networks and temporal codes by the extent too, as the original does.
    """

    name: ClassVar[str] = "embedding"
    fades: ClassVar[bool] = False

    sh_degree: int = 3
    gaussian_size: int = 32
    temporal_size: int = 256
    rows: int = 150
    coarse_rows: int = 30
    fine_rows: int = 0
    grow_until: float = 0.125
    stages: tuple[str, ...] = STAGES
    width: int = 128
    trunk_layers: int = 1
    head_layers: int = 2
    heads: tuple[str, ...] = networks.HEADS
    color_coefficients: int = 16
    cameras: int = 30
    gain: float = 1.0
    late_gain: float = 1.0
    anneal: float = 0.0
    late_start: float = 0.0
    zero_heads: bool = True
    temporal_std: float = 0.01
    smoothness: float = 0.1
    neighbours: int = 20
    patch: int = 512
    falloff: float = 0.0
    draw: int = 0
    opacity_weight: float = 1e-4
    opacity_of_mean: bool = False
    temporal_tv: float = 0.0
    unit: float = 0.0
    initial_opacity: float = 0.1
    lr_means: float = 1.6e-4
    lr_means_final: float = 1.6e-6
    lr_mlp: float = 1e-3
    lr_mlp_final: float = 1e-4
    lr_temporal: float = 5e-3
    lr_temporal_final: float = 5e-4
    lr_embeddings: float = 2.5e-3
    lr_embeddings_final: float = 2.5e-3
    lr_offsets: float = 2e-5
    lr_quats: float = 1e-3
    lr_scales: float = 5e-3
    lr_opacities: float = 0.05
    lr_sh: float = 2.5e-3
    rates_by_extent: bool = False

    def __post_init__(self) -> None:
        networks.check_heads(self.name, self.heads)
        if unknown := sorted(set(self.stages) - set(STAGES)):
            raise ConfigError(
                f"prior {self.name!r}, option 'stages': expected coarse, fine or both, got {unknown[0]!r}."
            )
        if not 1 <= self.coarse_rows <= self.rows:
            raise ConfigError(
                f"prior {self.name!r}, option 'coarse_rows': expected 1 to rows = {self.rows}, got {self.coarse_rows}."
            )

    @classmethod
    def n3v(cls) -> Embedding:
        """The published recipe for Neural 3D Video (300 frames, 80,000 steps)."""
        return replace(_faithful(cls), anneal=1 / 80, late_start=5 / 80, temporal_std=0.01 / 16, smoothness=1.0)

    @classmethod
    def technicolor(cls) -> Embedding:
        """The published recipe for Technicolor (50 frames, 100,000 steps)."""
        return replace(
            _faithful(cls),
            rows=25,
            coarse_rows=5,
            grow_until=0.0,
            heads=networks.HEADS[:-1],
            temporal_std=0.0,
            lr_mlp=1.6e-3,
            lr_mlp_final=1.6e-4,
            lr_temporal=1.6e-3,
            lr_temporal_final=1.6e-4,
            lr_offsets=0.0,
        )

    @classmethod
    def for_clip(cls, n_frames: int) -> Embedding:
        """A small model for short clips on a CPU, with a row for every second frame.

        In some thousand steps neighbours only come to move apart when their codes learn fast and are held together
        loosely, and when the codes of the moments differ from the start.
        """
        return cls(
            sh_degree=1,
            gaussian_size=16,
            temporal_size=64,
            rows=max(n_frames // 2, 4),
            coarse_rows=max(n_frames // 10, 3),
            width=48,
            trunk_layers=2,
            head_layers=1,
            color_coefficients=1,
            temporal_std=1.0,
            smoothness=0.01,
            lr_means=7.5e-4,
            lr_means_final=7.5e-6,
            lr_mlp=1.5e-3,
            lr_mlp_final=1.5e-4,
            lr_temporal=7.5e-3,
            lr_temporal_final=7.5e-4,
            lr_embeddings=3e-2,
            lr_embeddings_final=1.5e-2,
            lr_offsets=0.0,
            lr_quats=1.5e-3,
            lr_scales=7.5e-3,
            lr_opacities=0.075,
            lr_sh=3.75e-3,
        )

    def init(self, cloud: PointCloud, generator: torch.Generator | None = None) -> Params:
        """Canonical Gaussians on the points with equal codes, and networks that move nothing yet."""
        points = cloud.points
        unit = self.unit or 0.1 * float((points.amax(0) - points.amin(0)).max()) or 1.0
        params = base_params(cloud, self.sh_degree, self.initial_opacity) | {
            "gaussian.embeddings": points.new_zeros(len(cloud), self.gaussian_size),
            "temporal.weight": self.temporal_std * torch.randn(self.rows, self.temporal_size, generator=generator),
            "camera.offsets": torch.zeros(self.cameras, 1),
            "mlp.unit": torch.tensor([unit]),
        }
        for stage in STAGES:
            params |= networks.init_network(
                f"mlp.{stage}.",
                self.temporal_size + self.gaussian_size,
                width=self.width,
                layers=(self.trunk_layers, self.head_layers),
                coefficients=self.color_coefficients,
                zero_last=self.zero_heads,
                generator=generator,
            )
        return params

    def deform(self, params: Params, t: float | Tensor, camera: int | None = None) -> Gaussians:
        """The Gaussians at time t as a camera with its own clock sees them."""
        return deform(params, t, self, camera)

    def regularise(self, params: Params, t: float | Tensor) -> Float[Tensor, ""]:
        """Smoothness of the embeddings in space and of the temporal codes in time, and the mean opacity."""
        loss = self.opacity_weight * mean_opacity(need(params, "gaussian.opacities"), self.opacity_of_mean)
        if self.smoothness:
            loss = loss + self.smoothness * unevenness(params, self)
        if self.temporal_tv and self.rows > 1:
            loss = loss + self.temporal_tv * need(params, "temporal.weight").diff(dim=0).square().mean()
        return loss

    def param_groups(self, params: Params, extent: float) -> dict[str, Schedule]:
        """Everything but the buffer ``mlp.unit`` and unused heads."""
        scale = extent if self.rates_by_extent else 1.0
        mlp = Schedule(self.lr_mlp * scale, self.lr_mlp_final * scale)
        names = [n for stage in self.stages for n in networks.trained(params, f"mlp.{stage}.", self.heads)]
        shared = {
            "temporal.weight": Schedule(self.lr_temporal * scale, self.lr_temporal_final * scale),
            "gaussian.embeddings": Schedule(self.lr_embeddings, self.lr_embeddings_final),
        }
        if self.lr_offsets:
            shared["camera.offsets"] = Schedule(self.lr_offsets)
        return networks.canonical_rates(params, self, extent) | shared | dict.fromkeys(names, mlp)

    def at_step(self, step: int, steps: int) -> Embedding:
        """The gains, the rows of the fine network and the patch at a training step."""
        if step >= steps:
            return self
        progress = step / steps
        return replace(
            self,
            fine_rows=_grown(self, progress),
            gain=_ramp(progress, 0.0, self.anneal),
            late_gain=_ramp(progress, self.late_start, self.anneal),
            draw=step,
        )


def _faithful(cls: type[Embedding]) -> Embedding:
    """What the original's recipes have in common."""
    return cls(
        zero_heads=False,
        falloff=2000.0,
        opacity_of_mean=True,
        unit=1.0,
        rates_by_extent=True,
        lr_mlp=1.6e-4,
        lr_mlp_final=1.6e-5,
        lr_temporal=1.6e-4,
        lr_temporal_final=1.6e-5,
    )


def deform(params: Params, t: float | Tensor, config: Embedding, camera: int | None = None) -> Gaussians:
    """The Gaussians at clip-normalised time t.

    Args:
        params: see the module's description.
        t: a number or a tensor of one element; differentiable.
        config: hyper-parameters.
        camera: whose time offset to add, see :class:`Embedding`.
    """
    time = _local_time(need(params, "camera.offsets"), t, camera)
    gains = {
        "means": config.gain * params["mlp.unit"] if "mlp.unit" in params else config.gain,
        "quats": config.gain,
        "scales": config.gain * config.late_gain,
        "opacities": config.gain * config.late_gain,
        "sh": config.late_gain,
    }
    raw = networks.canonical(params)
    for stage, rows in (("coarse", config.coarse_rows), ("fine", config.fine_rows)):
        if stage in config.stages:
            code = temporal_code(need(params, "temporal.weight"), time, rows)
            raw = networks.add(raw, _deltas(params, f"mlp.{stage}.", code, config), gains)
    return networks.activate(raw)


def temporal_code(weight: Float[Tensor, "m c"], time: Float[Tensor, ""], rows: int = 0) -> Float[Tensor, "c"]:
    """The code of a moment.

    The matrix is first resized to a number of rows, each a linear interpolation of its neighbours; the code is the
    linear interpolation between those. Times outside [0, 1] reflect.

    Args:
        weight: one code a row, the first for time 0 and the last for time 1.
        time: scalar; differentiable.
        rows: rows after resizing; 0 for as many as there are.
    """
    total = weight.shape[0]
    rows = rows or total
    phase = torch.remainder(time, 2.0)
    place = torch.where(phase > 1, 2 - phase, phase) * (rows - 1)
    shares = _hat(place, rows)
    if rows != total:
        shares = shares @ _hat(torch.linspace(0, total - 1, rows, dtype=weight.dtype, device=weight.device), total)
    return shares @ weight


def mean_opacity(logits: Float[Tensor, "n"], of_mean: bool = False) -> Float[Tensor, ""]:
    """Mean opacity, or the opacity of the mean logit; 0 of no Gaussians, which pruning may leave."""
    if not len(logits):
        return logits.sum()
    return torch.sigmoid(logits.mean()) if of_mean else torch.sigmoid(logits).mean()


def unevenness(params: Params, config: Embedding) -> Float[Tensor, ""]:
    """How much the embeddings of neighbours differ, on the patch that ``config.draw`` points at."""
    means, codes = need(params, "gaussian.means"), need(params, "gaussian.embeddings")
    return roughness(means, codes, config.neighbours, config.patch, config.falloff, config.draw)


def _deltas(params: Params, prefix: str, code: Tensor, config: Embedding) -> dict[str, Tensor]:
    """A network's output; the moment's share of its first layer is the same for every Gaussian and computed once."""
    weight, bias = need(params, f"{prefix}trunk.0.weight"), need(params, f"{prefix}trunk.0.bias")
    of_moment, of_gaussian = weight[:, : len(code)], weight[:, len(code) :]
    first = F.linear(need(params, "gaussian.embeddings"), of_gaussian, of_moment @ code + bias)
    return networks.run(params, prefix, first, config.heads)


def _local_time(offsets: Float[Tensor, "c 1"], t: float | Tensor, camera: int | None) -> Float[Tensor, ""]:
    time = torch.as_tensor(t, dtype=offsets.dtype, device=offsets.device).reshape(())
    if camera is not None and 0 <= camera < len(offsets):
        return time + offsets[camera, 0]
    return time + offsets.sum() / (offsets != 0).sum().clamp_min(1)


def _hat(place: Float[Tensor, "*p"], rows: int) -> Float[Tensor, "*p r"]:
    """Share of each row in a linear interpolation at fractional row numbers."""
    first = place.detach().floor().clamp(0, max(rows - 2, 0))[..., None]
    part = place[..., None] - first
    row = torch.arange(rows, device=place.device)
    return torch.where(row == first, 1 - part, 0.0) + torch.where(row == first + 1, part, 0.0)


def _grown(config: Embedding, progress: float) -> int:
    if progress >= config.grow_until:
        return config.fine_rows
    missing = (config.fine_rows or config.rows) - config.coarse_rows
    return int(config.coarse_rows + missing * progress / config.grow_until + 1e-6)


def _ramp(progress: float, start: float, length: float) -> float:
    return min(max((progress - start) / length, 0.0), 1.0) if length > 0 else 1.0
