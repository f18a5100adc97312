"""Polynomial motion with a temporal opacity (SpacetimeGaussians, Li et al., CVPR 2024).

With ``dt = t - centers`` for each Gaussian::

    mean(t)     = means + motion_1 dt + motion_2 dt^2 + motion_3 dt^3
    rotation(t) = normalize(quats + omega dt)
    opacity(t)  = sigmoid(opacities) exp(-(dt / exp(log_widths))^2)

Scales do not change. A model that was joined from models of parts of a clip has ``lives`` [n, 2]: start and end of the
part in which a Gaussian is there at all. Colours are spherical harmonics, or (``color="features"``, the original's full
model) nine features that are splatted and decoded per pixel by a small network: see :meth:`moegs.expert.Expert.decode`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moegs.deform._fields import fields_of, harmonics, need, one_of, schedules
from moegs.deform._init import base_params, lives
from moegs.deform.prior import Prior, Schedule, register
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params
from moegs.gaussians.quaternions import normalize

LIVES = "gaussian.lives"
WIDEST = 10.0  # |log_widths| beyond this change nothing visible, and exp() would overflow further out
_N3V_SCALE_RATES = {"coffee_martini": 3e-3, "flame_salmon_1": 3e-3}


@register
@dataclass(frozen=True)
class Polynomial(Prior):
    """Hyper-parameters of :func:`deform`; the defaults are for short clips and some thousand steps.

    Attributes:
        color: ``"sh"``, or ``"features"`` for the original's splatted features and decoder.
        activation: how decoded features become colours, ``"sigmoid"`` (N3V) or ``"clamp"`` (Technicolor).
        sh_degree: degree of the harmonics that :meth:`init` makes.
        detach_time: cut the gradient of ``dt`` in motion, rotation and features, as the original does, so that centres
            learn from opacity alone. Off by default: the true gradient lets a centre slide along its own path, and
            makes the means differentiable in t.
        respawn: what becomes of the centre of a cloned or split Gaussian. ``"recentre"`` shifts it within the
            Gaussian's own life span and expands the path about the new centre, so that the copy stays on its path;
            ``"uniform"`` draws it from [0, 1) and leaves the rest, as the original does, which throws moving Gaussians
            off their paths; ``"keep"`` leaves it.
        initial_opacity: first opacity of every Gaussian.
        initial_log_width: log of the first temporal width, in clip lengths.
        motion_reg: weight of the mean absolute motion coefficient (0 in the original).
        lr_*: learning rates; those of means and motion are multiplied by the extent of the scene, that of
            ``sh_rest`` is a twentieth of that of ``sh_dc``. Those of motion fall over the run, so that what stands still
            comes to rest; the original's do not. Lives change slowly beside motion: fast, as in the original, they
            shrink to less than a frame before a path is found that the Gaussian could follow for longer.
    """

    name: ClassVar[str] = "polynomial"

    color: str = "sh"
    activation: str = "sigmoid"
    sh_degree: int = 2
    detach_time: bool = False
    respawn: str = "recentre"
    initial_opacity: float = 0.1
    initial_log_width: float = -0.7
    motion_reg: float = 0.0
    lr_means: float = 8e-4
    lr_means_final: float = 8e-6
    lr_motion: float = 2e-3
    lr_motion_final: float = 6e-5
    lr_quats: float = 1e-3
    lr_omega: float = 5e-4
    lr_omega_final: float = 1.5e-5
    lr_scales: float = 7e-3
    lr_opacities: float = 0.05
    lr_centers: float = 2e-3
    lr_log_widths: float = 4e-3
    lr_sh: float = 3.5e-3
    lr_features_t: float = 1e-3
    lr_decoder: float = 1e-3

    def __post_init__(self) -> None:
        one_of(self.name, "color", self.color, ("sh", "features"))
        one_of(self.name, "activation", self.activation, ("sigmoid", "clamp"))
        one_of(self.name, "respawn", self.respawn, ("recentre", "uniform", "keep"))
        if not abs(self.initial_log_width) <= WIDEST:
            raise ConfigError(
                f"prior 'polynomial', option 'initial_log_width': expected -{WIDEST:g} to {WIDEST:g}, "
                f"got {self.initial_log_width}."
            )

    @classmethod
    def n3v(cls, scene: str = "") -> Polynomial:
        """The original's recipe for 50-frame pieces of Neural 3D Video, its quirks included."""
        return replace(_original(cls), lr_scales=_N3V_SCALE_RATES.get(scene, 1.5e-3))

    @classmethod
    def technicolor(cls) -> Polynomial:
        """The original's recipe for Technicolor."""
        return replace(_original(cls), activation="clamp", initial_log_width=-2.0)

    @property
    def decoder(self) -> str | None:
        return self.activation if self.color == "features" else None

    def init(self, cloud: PointCloud, generator: torch.Generator | None = None) -> Params:
        """Gaussians on the points, moving as these do, centred at the time each was seen and as wide as its span.

        Points of unknown time are still, centred mid-clip, and wide.
        """
        params = base_params(cloud, self.sh_degree, self.initial_opacity)
        means = params["gaussian.means"]
        n = len(cloud)
        width = 2 * math.exp(self.initial_log_width)
        middle, wide = (torch.full_like(means[:, 0], value) for value in (0.5, width))
        times, widths = lives(cloud, middle, wide, exact=1.5**-0.5)
        drift = torch.zeros_like(means) if cloud.velocities is None else cloud.velocities
        motion = {
            "gaussian.motion": torch.cat([drift, means.new_zeros(n, 6)], dim=1),
            "gaussian.omega": means.new_zeros(n, 4),
            "gaussian.centers": times,
            "gaussian.log_widths": (widths / 2).clamp_min(1e-3).log(),
        }
        if self.color == "features":
            params = _with_features(params, cloud, self.activation, generator)
        return params | motion

    def deform(self, params: Params, t: float | Tensor, camera: int | None = None) -> Gaussians:
        return deform(params, t, self)

    def regularise(self, params: Params, t: float | Tensor) -> Float[Tensor, ""]:
        motion = need(params, "gaussian.motion")
        if not self.motion_reg or not len(motion):
            return motion.new_zeros(())
        return self.motion_reg * motion.abs().mean()

    def param_groups(self, params: Params, extent: float) -> dict[str, Schedule]:
        rates = {
            "means": Schedule(self.lr_means * extent, self.lr_means_final * extent),
            "motion": Schedule(self.lr_motion * extent, self.lr_motion_final * extent),
            "quats": Schedule(self.lr_quats),
            "omega": Schedule(self.lr_omega, self.lr_omega_final),
            "scales": Schedule(self.lr_scales),
            "opacities": Schedule(self.lr_opacities),
            "centers": Schedule(self.lr_centers),
            "log_widths": Schedule(self.lr_log_widths),
            "sh_dc": Schedule(self.lr_sh),
            "sh_rest": Schedule(self.lr_sh / 20),
            "features_dc": Schedule(self.lr_sh),
            "features_t": Schedule(self.lr_features_t),
        }
        shared = {name: Schedule(self.lr_decoder) for name in ("decoder.w1", "decoder.w2") if name in params}
        return schedules(params, "", rates) | shared

    def jittered(self, params: Params, generator: torch.Generator | None = None) -> Params:
        centers = need(params, "gaussian.centers")
        start, end = params[LIVES].unbind(-1) if LIVES in params else (centers.new_zeros(()), centers.new_ones(()))
        if self.respawn == "uniform":
            return params | {"gaussian.centers": start + (end - start) * _uniform(centers, generator)}
        if self.respawn == "recentre":
            spread = 0.5 * need(params, "gaussian.log_widths").clamp(-WIDEST, 0.0).exp()
            noise = torch.randn(centers.shape, generator=generator, dtype=centers.dtype).to(centers.device)
            return recentred(params, (centers + spread * noise).clamp(start, end))
        return params


def _original(cls: type[Polynomial]) -> Polynomial:
    """What the original's recipes have in common."""
    return cls(
        color="features",
        detach_time=True,
        respawn="uniform",
        initial_log_width=0.0,
        lr_means=1.6e-4,
        lr_means_final=1.6e-6,
        lr_motion=2.8e-4,
        lr_motion_final=2.8e-4,
        lr_omega=1e-4,
        lr_omega_final=1e-4,
        lr_scales=5e-3,
        lr_sh=2.5e-3,
        lr_centers=1e-4,
        lr_log_widths=0.03,
        lr_decoder=1e-4,
    )


def deform(params: Params, t: float | Tensor, config: Polynomial | None = None) -> Gaussians:
    """The Gaussians at clip-normalised time t; differentiable in every tensor and in t.

    Works under ``torch.func.vmap`` over t.

    Raises:
        ShapeError: a tensor that the formulae need is missing.
    """
    fields = fields_of(params)
    means = need(params, "gaussian.means")
    dt = (t.to(means.dtype) if isinstance(t, Tensor) else t) - need(params, "gaussian.centers")
    moving = (dt.detach() if config is not None and config.detach_time else dt)[:, None]
    featured = "features_dc" in fields
    opacities = fields["opacities"].sigmoid() * temporal_opacity(dt, need(params, "gaussian.log_widths"))
    return Gaussians(
        means=means + displacement(need(params, "gaussian.motion"), moving),
        opacities=opacities if LIVES not in params else torch.where(alive(params[LIVES], t), opacities, 0.0),
        sh=means.new_zeros(len(means), 1, 3) if featured else harmonics(fields),
        quats=normalize(fields["quats"] + moving * need(params, "gaussian.omega")),
        scales=fields["scales"].exp(),
        features=torch.cat([fields["features_dc"], moving * fields["features_t"]], dim=-1) if featured else None,
    )


def alive(lives: Float[Tensor, "n 2"], t: float | Tensor) -> Bool[Tensor, "n"]:
    """Who is there at time t; the end of a part belongs to the next, but for that of the clip."""
    start, end = lives.unbind(-1)
    return (start <= t) & ((t < end) | (end >= 1))


def displacement(motion: Float[Tensor, "n 9"], dt: Float[Tensor, "n 1"]) -> Float[Tensor, "n 3"]:
    """Cubic polynomial without constant term: ``motion`` holds the factors of dt, dt^2 and dt^3, xyz each."""
    first, second, third = motion.unflatten(-1, (3, 3)).unbind(-2)
    return dt * (first + dt * (second + dt * third))


def temporal_opacity(dt: Float[Tensor, "n"], log_widths: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """``exp(-(dt / exp(log_widths))^2)``: without the one half of a normal distribution, as in the original."""
    return torch.exp(-(dt * torch.exp(-log_widths.clamp(-WIDEST, WIDEST))).square())


def recentred(params: Params, centers: Float[Tensor, "n"]) -> Params:
    """The same paths and rotations expanded about other centres; only the temporal opacity moves."""
    shift = (centers - need(params, "gaussian.centers"))[:, None]
    motion = need(params, "gaussian.motion")
    first, second, third = motion.unflatten(-1, (3, 3)).unbind(-2)
    factors = [first + shift * (2 * second + 3 * shift * third), second + 3 * shift * third, third]
    return params | {
        "gaussian.means": params["gaussian.means"] + displacement(motion, shift),
        "gaussian.motion": torch.cat(factors, dim=-1),
        "gaussian.quats": params["gaussian.quats"] + shift * params["gaussian.omega"],
        "gaussian.centers": centers,
    }


def _with_features(params: Params, cloud: PointCloud, activation: str, generator: torch.Generator | None) -> Params:
    kept = {k: v for k, v in params.items() if not k.startswith("gaussian.sh_")}
    # the original starts from plain colours under the sigmoid too, and so from a grey image; its inverse starts right
    albedo = cloud.colors.clamp(0.02, 0.98).logit() if activation == "sigmoid" else cloud.colors
    return kept | {
        "gaussian.features_dc": torch.cat([albedo, cloud.colors], dim=-1),
        "gaussian.features_t": torch.zeros_like(cloud.points),
        "decoder.w1": _dense(6, 12, generator),
        "decoder.w2": _dense(3, 6, generator),
    }


def _dense(rows: int, columns: int, generator: torch.Generator | None) -> Float[Tensor, "rows columns"]:
    """Weights as a 1x1 convolution of torch starts with: uniform within one over the root of the inputs."""
    return (2 * torch.rand(rows, columns, generator=generator) - 1) * columns**-0.5


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device)
