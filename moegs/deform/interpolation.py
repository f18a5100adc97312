"""Explicit key frames with interpolation (Ex4DGS, Lee et al., NeurIPS 2024).

Two populations. ``linear``: Gaussians that stand still or drift, ``means + displacements * frame / span``. ``spline``:
key frames every ``interval`` frames, positions by cubic Hermite interpolation with central-difference tangents,
rotations by spherical interpolation, and an opacity that is full between two learned centres and falls off outside::

    opacity(t) = sigmoid(opacities) g((frame + shift) / interval)
    g(tau)     = exp(-(distance to the window / (exp(widths) + least))^2)

Centres and widths are in key-frame units, ``tau = (frame + shift) / interval``; key frame j stands at ``tau = j``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, overload

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.deform import _splines
from moegs.deform._fields import fields_of, harmonics, one_of, schedules
from moegs.deform._init import base_params, lives
from moegs.deform._keyframes import spline_params
from moegs.deform.prior import Prior, Schedule, register
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, concatenate, covariances
from moegs.gaussians.params import Params
from moegs.gaussians.quaternions import normalize, to_matrix

LINEAR, SPLINE = "linear", "spline"
_FWHM = 2.36  # the original turns its least width from full width at half maximum into a standard deviation


@register
@dataclass(frozen=True)
class Interpolation(Prior):
    """Hyper-parameters of :func:`deform`; the defaults are for short clips and some thousand steps.

    Attributes:
        n_frames: frames of the clip: t = 1 is this frame.
        interval: frames from one key frame to the next.
        pad: frames of slack before the first frame (2 for N3V and 3 for Technicolor in the original, none needed).
        trained_duration: frames that the original's training ended with, 313 for N3V and 64 for Technicolor;
            displacements are per this many frames, and it sets the number of key frames. 0: the clip's own.
        position: ``"cubic"`` or ``"linear"`` interpolation of means.
        opacity_window: ``"nearest"`` is continuous; ``"signed_min"`` jumps at the earlier centre, as the original does.
        shortest_arc: turn the short way between key frames of opposite sign; the original does not.
        normalise_static: the original's rasteriser takes the rotations of the linear population as they are, of any
            length; False reproduces that (the Gaussians then carry covariances).
        exact_extraction: extracted key frames lie on the path the Gaussian had; the original squeezes them a little.
        dynamic: fraction of the initial points that start as splines. 1 trains without extraction; 0 is the original's
            progressive way, in which :func:`moegs.deform.extraction.extract` turns moving points into splines.
        var_pad: least width of an opacity window's flank, full width at half maximum in frames.
        respawn: ``"jitter"`` shifts the window of cloned or split splines, ``"jitter_reset"`` also resets its widths as
            the original does, ``"keep"`` leaves it.
        sh_degree: degree of the harmonics that :meth:`init` makes.
        initial_opacity: first opacity of every Gaussian.
        static_reg: weight of the mean log displacement.
        motion_reg: weight of the mean distance from the first key frame to the one nearest to t. Over a run this is
            the original's mean over all key frames, at a fraction of the cost. Off by default: it changed held-out
            quality by 0.01 dB and takes half as long again as :func:`deform`.
        reg_from: fraction of the run before which neither counts.
        lr_*: learning rates; those of means and key frames are multiplied by the extent of the scene.
    """

    name: ClassVar[str] = "interpolation"

    n_frames: int = 50
    interval: int = 5
    pad: int = 0
    trained_duration: int = 0
    position: str = "cubic"
    opacity_window: str = "nearest"
    shortest_arc: bool = True
    normalise_static: bool = True
    exact_extraction: bool = True
    dynamic: float = 1.0
    var_pad: float = 3.0
    respawn: str = "jitter"
    sh_degree: int = 2
    initial_opacity: float = 0.1
    static_reg: float = 1e-4
    motion_reg: float = 0.0
    reg_from: float = 0.0
    lr_means: float = 5e-4
    lr_means_final: float = 5e-6
    lr_keyframes: float = 8e-4
    lr_keyframes_final: float = 2e-5
    lr_sh: float = 2.5e-3
    lr_sh_spline: float = 2.5e-3
    lr_scales: float = 5e-3
    lr_quats: float = 1e-3
    lr_rotations: float = 1e-3
    lr_opacities: float = 0.05
    lr_opacities_spline: float = 0.05
    lr_displacements: float = 1e-4
    lr_centers: float = 0.01
    lr_widths: float = 0.01

    def __post_init__(self) -> None:
        one_of(self.name, "position", self.position, ("cubic", "linear"))
        one_of(self.name, "opacity_window", self.opacity_window, ("nearest", "signed_min"))
        one_of(self.name, "respawn", self.respawn, ("jitter", "jitter_reset", "keep"))
        for option, least in (("n_frames", 1), ("interval", 1), ("pad", 0), ("trained_duration", 0)):
            if getattr(self, option) < least:
                found = getattr(self, option)
                raise ConfigError(f"prior {self.name!r}, option {option!r}: expected {least} or more, got {found}.")
        if not 0.0 <= self.dynamic <= 1.0:
            raise ConfigError(f"prior {self.name!r}, option 'dynamic': expected 0 to 1, got {self.dynamic}.")

    @classmethod
    def for_clip(cls, n_frames: int) -> Interpolation:
        """About ten key-frame intervals a clip, each of 2 to 10 frames."""
        return cls(n_frames=n_frames, interval=min(10, max(2, round(n_frames / 10))))

    @classmethod
    def n3v(cls) -> Interpolation:
        """The original's recipe for 300 frames of Neural 3D Video, its quirks included."""
        return _original(cls, n_frames=300, pad=2, trained_duration=313)

    @classmethod
    def technicolor(cls, scene: str = "Fabien") -> Interpolation:
        """The original's recipe for 50 frames of a Technicolor scene, its quirks included."""
        prior = _original(cls, n_frames=50, pad=3, trained_duration=64)
        gentle = scene in ("Birthday", "Painter", "Train")
        return replace(
            prior,
            static_reg=1e-4 if scene == "Birthday" else 2e-4,
            motion_reg=1e-4 if scene == "Birthday" else 2e-4,
            lr_sh_spline=2.5e-4 if gentle else 2.5e-3,
            lr_opacities_spline=1e-4 if gentle else 0.05,
            lr_centers=1e-3,
            lr_widths=1e-3 if gentle else 1e-4,
        )

    @property
    def shift(self) -> int:
        """Frames from key frame 0 to frame 0."""
        return self.pad + (self.interval if self.position == "cubic" else 0)

    @property
    def span(self) -> int:
        """Frames over which a linear Gaussian covers its displacement."""
        return self.trained_duration or self.n_frames

    @property
    def n_keyframes(self) -> int:
        """Key frames that :meth:`init` makes; :func:`deform` goes by the tensors."""
        if self.trained_duration:
            return math.ceil((self.trained_duration + self.shift + 2 * self.pad + 1) / self.interval) + 3
        beyond = 2 if self.position == "cubic" else 1
        return math.ceil((self.n_frames + self.shift) / self.interval) + beyond

    @overload
    def tau(self, t: float) -> float: ...
    @overload
    def tau(self, t: Tensor) -> Tensor: ...
    def tau(self, t: float | Tensor) -> float | Tensor:
        """Clip-normalised time in key-frame units."""
        return (t * self.n_frames + self.shift) / self.interval

    def init(self, cloud: PointCloud, generator: torch.Generator | None = None) -> Params:
        """Gaussians on the points, which move as these do; a fraction ``dynamic`` of them, chosen at random, as splines.

        Opacity windows cover half the clip around the time a point was seen (mid-clip when times are unknown), or half
        the span it is known to be there, and fall off gently, so that each can learn to widen or to close.
        """
        base = base_params(cloud, self.sh_degree, self.initial_opacity)
        fields = fields_of(base)
        moving = torch.zeros(len(cloud), dtype=torch.bool)
        moving[torch.randperm(len(cloud), generator=generator)[: round(self.dynamic * len(cloud))]] = True
        still = {f"gaussian.{LINEAR}.{k}": v[~moving] for k, v in fields.items()}
        still[f"gaussian.{LINEAR}.displacements"] = torch.zeros_like(fields["means"][~moving])
        times, spans = lives(cloud, torch.full((len(cloud),), 0.5), torch.ones(len(cloud)))
        window = (_soft_window if cloud.looks is None else _own_window)(self, times[moving], spans[moving])
        spline = spline_params({k: v[moving] for k, v in fields.items()}, self.n_keyframes, *window)
        if cloud.velocities is not None:
            spline["keyframes"] += _drift(self, cloud.velocities[moving], times[moving], spans[moving])
        return still | {f"gaussian.{SPLINE}.{k}": v for k, v in spline.items()}

    def like(self, params: Params) -> Interpolation:
        """All as splines, which alone come and go."""
        return replace(self, dynamic=1.0)

    def deform(self, params: Params, t: float | Tensor, camera: int | None = None) -> Gaussians:
        return deform(params, t, self)

    def regularise(self, params: Params, t: float | Tensor) -> Float[Tensor, ""]:
        linear, spline = fields_of(params, LINEAR), fields_of(params, SPLINE)
        loss = next(iter(params.values())).new_zeros(())
        if self.static_reg and linear and len(linear["displacements"]):
            loss = loss + self.static_reg * (_lengths(linear["displacements"]) + 1e-3).log().mean()
        if self.motion_reg and spline and len(spline["keyframes"]):
            loss = loss + self.motion_reg * _unrest(spline["keyframes"], _typed(t, spline["keyframes"]), self)
        return loss

    def param_groups(self, params: Params, extent: float) -> dict[str, Schedule]:
        means = Schedule(self.lr_means * extent, self.lr_means_final * extent)
        scales, sh, sh_spline = self.lr_scales, self.lr_sh, self.lr_sh_spline
        linear = {
            "means": means,
            "displacements": Schedule(self.lr_displacements),
            "quats": Schedule(self.lr_quats),
            "scales": Schedule(scales),
            "opacities": Schedule(self.lr_opacities),
            "sh_dc": Schedule(sh),
            "sh_rest": Schedule(sh / 20),
        }
        spline = {
            "keyframes": Schedule(self.lr_keyframes * extent, self.lr_keyframes_final * extent),
            "rotations": Schedule(self.lr_rotations),
            "scales": Schedule(scales),
            "opacities": Schedule(self.lr_opacities_spline),
            "centers": Schedule(self.lr_centers),
            "widths": Schedule(self.lr_widths),
            "sh_dc": Schedule(sh_spline),
            "sh_rest": Schedule(sh_spline / 20),
        }
        return schedules(params, LINEAR, linear) | schedules(params, SPLINE, spline)

    def at_step(self, step: int, steps: int) -> Interpolation:
        return replace(self, static_reg=0.0, motion_reg=0.0) if step < self.reg_from * steps else self

    def moved(self, params: Params, offsets: Float[Tensor, "n 3"]) -> Params:
        moved = super().moved(params, offsets)  # the linear population has means
        name = f"gaussian.{SPLINE}.keyframes"
        if name not in params:
            return moved
        own = offsets[-len(params[name]) :] if len(params[name]) else offsets[:0]  # splines count last
        return moved | {name: params[name] + own[:, None].to(params[name])}

    def jittered(self, params: Params, generator: torch.Generator | None = None) -> Params:
        name = f"gaussian.{SPLINE}.centers"
        if self.respawn == "keep" or name not in params:
            return params
        centers, widths = params[name], params[f"gaussian.{SPLINE}.widths"]
        spread = ((centers[:, :1] - centers[:, 1:]).abs() / 3).clamp_min(2 / self.interval)
        noise = torch.randn(centers.shape, generator=generator, dtype=centers.dtype).to(centers.device)
        last = self.tau((self.span - 1) / self.n_frames)
        changed = {name: (centers + spread * noise).clamp(self.tau(1 / self.n_frames), last)}
        if self.respawn == "jitter_reset":
            changed[f"gaussian.{SPLINE}.widths"] = torch.full_like(widths, 2.0)
        return params | changed


def _original(cls: type[Interpolation], n_frames: int, pad: int, trained_duration: int) -> Interpolation:
    """What the original's recipes have in common."""
    return cls(
        n_frames=n_frames,
        pad=pad,
        trained_duration=trained_duration,
        interval=10,
        opacity_window="signed_min",
        shortest_arc=False,
        normalise_static=False,
        exact_extraction=False,
        dynamic=0.0,
        respawn="jitter_reset",
        sh_degree=3,
        motion_reg=1e-4,
        reg_from=0.0125,
        lr_means=1.6e-4,
        lr_means_final=1.6e-6,
        lr_keyframes=1.6e-4,
        lr_keyframes_final=1.6e-4,
        lr_sh=2.5e-3,
        lr_sh_spline=2.5e-3,
        lr_scales=5e-3,
        lr_quats=1e-5,
        lr_rotations=1e-3,
        lr_opacities_spline=0.01,
        lr_widths=1e-4,
    )


def deform(params: Params, t: float | Tensor, config: Interpolation) -> Gaussians:
    """The Gaussians at clip-normalised time t, linear population first; differentiable in every tensor and in t.

    A number t reads key frames as views, which is fast; a scalar tensor gathers them, which lets gradients reach t and
    ``torch.func.vmap`` batch it.

    Raises:
        ShapeError: params holds neither population.
    """
    linear, spline = fields_of(params, LINEAR), fields_of(params, SPLINE)
    if not linear and not spline:
        found = ", ".join(sorted(params)) or "nothing"
        raise ShapeError(f"params: expected 'gaussian.linear.*' or 'gaussian.spline.*' tensors, found {found}.")
    parts = []
    if linear and (len(linear["means"]) or not spline):
        parts.append(_deform_linear(linear, _typed(t, linear["means"]), config))
    if spline and (len(spline["keyframes"]) or not parts):
        parts.append(_deform_spline(spline, _typed(t, spline["keyframes"]), config))
    if any(p.covars is not None for p in parts):  # all shapes of an expert are given in one way
        parts = [replace(p, quats=None, scales=None, covars=covariances(p)) for p in parts]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _typed(t: float | Tensor, like: Tensor) -> float | Tensor:
    return t.to(like.dtype) if isinstance(t, Tensor) else float(t)


def _deform_linear(fields: dict[str, Tensor], t: float | Tensor, config: Interpolation) -> Gaussians:
    scales = fields["scales"].exp()
    if config.normalise_static:
        shape = {"quats": normalize(fields["quats"]), "scales": scales}
    else:
        m = _raw_matrix(fields["quats"]) * scales[:, None, :]
        shape = {"covars": m @ m.mT}
    return Gaussians(
        means=fields["means"] + fields["displacements"] * (t * (config.n_frames / config.span)),
        opacities=fields["opacities"].sigmoid(),
        sh=harmonics(fields),
        **shape,
    )


def _raw_matrix(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """The rotation formula applied to quaternions of any length: ``I + |q|^2 (R - I)``."""
    identity = torch.eye(3, dtype=quats.dtype, device=quats.device)
    return identity + quats.square().sum(-1)[:, None, None] * (to_matrix(quats) - identity)


def _deform_spline(fields: dict[str, Tensor], t: float | Tensor, config: Interpolation) -> Gaussians:
    tau = config.tau(t)
    means, quats = _splines.pose(fields["keyframes"], fields["rotations"], tau, config.position, config.shortest_arc)
    return Gaussians(
        means=means,
        opacities=fields["opacities"].sigmoid() * _window(fields, tau, config),
        sh=harmonics(fields),
        quats=quats,
        scales=fields["scales"].exp(),
    )


def _window(fields: dict[str, Tensor], tau: float | Tensor, config: Interpolation) -> Float[Tensor, "n"]:
    widths = _splines.window_widths(fields["widths"], config.var_pad / config.interval / _FWHM)
    shape = _splines.nearest_window if config.opacity_window == "nearest" else _splines.signed_min_window
    return shape(tau, fields["centers"], widths)


def _soft_window(config: Interpolation, times: Float[Tensor, "n"], spans: Float[Tensor, "n"]) -> tuple[Tensor, Tensor]:
    """Centres a quarter of the span either side, flanks one span wide: 0.94 of full opacity a quarter further out."""
    centers = torch.stack([config.tau(times - spans / 4), config.tau(times + spans / 4)], dim=-1)
    return centers, (spans * (config.n_frames / config.interval)).log()[:, None].expand_as(centers).clone()


def _own_window(config: Interpolation, times: Float[Tensor, "n"], spans: Float[Tensor, "n"]) -> tuple[Tensor, Tensor]:
    """The same with flanks a quarter of the span wide where it is less than the clip: a life as long as the span."""
    centers, log_widths = _soft_window(config, times, spans)
    flank = spans / 4 * (config.n_frames / config.interval)
    narrow = (flank - config.var_pad / config.interval / _FWHM).clamp_min(1e-3)
    return centers, torch.where(spans[:, None] < 1, narrow.log()[:, None], log_widths)


def _drift(
    config: Interpolation, velocities: Float[Tensor, "n 3"], times: Float[Tensor, "n"], spans: Float[Tensor, "n"]
) -> Float[Tensor, "n k 3"]:
    """Displacement at every key frame of points that move evenly, up to a span (but a key frame each way) from their time."""
    at = (torch.arange(config.n_keyframes) * config.interval - config.shift) / config.n_frames
    most = spans.clamp_min(config.interval / config.n_frames)[:, None]
    ahead = (at - times[:, None]).clamp(-most, most)
    return ahead[:, :, None] * velocities[:, None]


def _unrest(keyframes: Float[Tensor, "n k 3"], t: float | Tensor, config: Interpolation) -> Float[Tensor, ""]:
    nearest, _ = _splines.locate(config.tau(t) + 0.5, 1, keyframes.shape[1] - 1)
    if isinstance(nearest, Tensor):
        first, other = keyframes[:, 0], keyframes[:, nearest]
    else:  # one strided view of both: its gradient is written out once
        first, other = keyframes[:, : nearest + 1 : nearest].unbind(1)
    return _lengths(first - other).mean()


def _lengths(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Euclidean lengths; the gradient of a zero vector's is zero."""
    return torch.linalg.vector_norm(vectors, dim=-1)
