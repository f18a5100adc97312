r"""4D reformulation: Gaussians in space and time, cut at an instant (4DGS).

With D = diag(exp(scales), exp(log_time_scales)), the 4D rotation A of a left and a right unit quaternion, Σ = A D² Aᵀ
and τ = time_start + t time_span, the cut at τ is again Gaussian:

    mean = means + S12/S44 (τ - times),    covariance = S11 - S12 S12ᵀ/S44,
    opacity = sigmoid(opacities) exp(-(τ - times)²/(2 S44)),

where S11, S12, S44 are the blocks of Σ for space, space with time, and time. The covariance is computed as a product
C Cᵀ with C = B - (B m) mᵀ/S44 for the space rows B and the time row m of A D: rounding cannot make it indefinite.
Colours are 4D spherindrical harmonics: blocks of ordinary coefficients times 1, cos(2π(τ - times)/time_span),
cos(4π(τ - times)/time_span), summed here to ordinary coefficients. Yang et al., "Real-time Photorealistic Dynamic Scene
Representation and Rendering with 4D Gaussian Splatting", ICLR 2024.

Tensors, and where 4d-gaussian-splatting's ``chkpnt*.pth`` holds them (index into the tuple):

    gaussian.means [n,3]             1 xyz                gaussian.times [n]             13 t, in the unit of time_span
    gaussian.sh_dc [n,1,3]           2 features_dc        gaussian.log_time_scales [n]   14 scaling_t
    gaussian.sh_rest [n,k,3]         3 features_rest      gaussian.quats_right [n,4]     15 rotation_r
    gaussian.scales [n,3]            4 scaling            time.span [1] (buffer)         absent; see ``time_span``
    gaussian.quats [n,4]             5 rotation (left)
    gaussian.opacities [n]           6 opacity

By option: the original's CUDA code evaluates colours in the direction of ``means`` (``seen_at="rest"``), where ours, as its
Python code, looks at the mean at τ. It also shapes footprints by a wrong field of view on N3V, which
:class:`moegs.render.RasterOptions` has as ``footprint="4dgs"``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from moegs.deform._fields import fields_of, harmonics, need, one_of, schedules
from moegs.deform._init import base_params, lives
from moegs.deform._neighbours import roughness
from moegs.deform.prior import Prior, Schedule, register
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, covariances
from moegs.gaussians.params import Params
from moegs.gaussians.quaternions import normalize

TINY = 1e-12  # least variance in time


@register
@dataclass(frozen=True)
class Reformulation(Prior):
    """Hyper-parameters of Gaussians in space and time.

    Attributes:
        sh_degree: degree of the colours in space.
        sh_degree_t: cosines in time that colours have, 0, 1 or 2.
        cosines_from: fractions of the run from which the first and the second cosine take part.
        time_start, time_span: when t = 0 is and how long the clip is, in the unit of ``gaussian.times`` (4DGS: seconds,
            0 and 10 on N3V). A span of 0 is taken from the buffer ``time.span``, which a fresh model has: a third of
            the cloud's longest side, so that speeds are near one, where rotations express them well.
        rot_4d: rotate in space and time. Otherwise space and time stay apart, nothing moves, and there are quaternions
            and scales instead of covariances.
        variance_from: how the variance in time follows from exp(log_time_scales) without ``rot_4d``: ``"deviation"``
            squares it; ``"itself"`` is the original, which forgets to.
        flipped: order of the axes of A, as in checkpoints since September 2024; False for earlier ones.
        cutoff: a Gaussian whose opacity time has brought to this share or less is dropped (the original: 0.05, which
            makes it pop; 0 leaves it).
        seen_at: where a camera looks to find colours: ``"now"`` at the means as they are, ``"rest"`` at the means of each
            Gaussian's own time, as the original's kernels do, whose colours then lag behind.
        prefilter_var: variance added to S44 in the opacity alone; not above 0 for none.
        initial_opacity: first opacity of every Gaussian, at its own time.
        initial_time_scale: first temporal deviation, in spans (the original: ``sqrt(span / 5) / span``).
        split_time: divide temporal deviations together with spatial ones, as the original does when it splits.
        rigidity: weight of the difference between the displacements per clip of neighbouring Gaussians (the original
            has such a loss, with weight 0 on N3V).
        stillness: weight of the mean displacement per clip (as before).
        neighbours, patch: neighbours per Gaussian, and Gaussians looked at per call; 0 for all of them.
        draw: number of the current patch.
        lr_*: learning rates, those ending in ``_final`` at the end of the run; that of means is multiplied by the
            extent of the scene, that of times by the span, that of ``sh_rest`` is a twentieth of that of
            ``sh_dc``.
    """

    name: ClassVar[str] = "reformulation"

    sh_degree: int = 3
    sh_degree_t: int = 2
    cosines_from: tuple[float, float] = (4 / 30, 5 / 30)
    time_start: float = 0.0
    time_span: float = 0.0
    rot_4d: bool = True
    variance_from: str = "deviation"
    flipped: bool = True
    cutoff: float = 0.0
    seen_at: str = "now"
    prefilter_var: float = -1.0
    initial_opacity: float = 0.1
    initial_time_scale: float = 0.1414
    split_time: bool = False
    rigidity: float = 0.0
    stillness: float = 0.0
    neighbours: int = 20
    patch: int = 512
    draw: int = 0
    lr_means: float = 1.6e-4
    lr_means_final: float = 1.6e-6
    lr_times: float = 2e-4
    lr_time_scales: float = 5e-3
    lr_quats: float = 1e-3
    lr_scales: float = 5e-3
    lr_opacities: float = 0.05
    lr_sh: float = 2.5e-3

    def __post_init__(self) -> None:
        one_of(self.name, "variance_from", self.variance_from, ("deviation", "itself"))
        one_of(self.name, "seen_at", self.seen_at, ("now", "rest"))
        if self.sh_degree_t not in (0, 1, 2):
            raise ConfigError(f"prior 'reformulation', option 'sh_degree_t': expected 0 to 2, got {self.sh_degree_t}.")
        if self.time_span < 0:
            raise ConfigError(f"prior 'reformulation', option 'time_span': expected 0 or more, got {self.time_span}.")

    @classmethod
    def n3v(cls) -> Reformulation:
        """The published recipe for Neural 3D Video (10 seconds, 30,000 steps)."""
        return cls(time_span=10.0, variance_from="itself", cutoff=0.05, seen_at="rest", split_time=True, lr_times=7e-5)

    @classmethod
    def technicolor(cls) -> Reformulation:
        """Technicolor (50 frames). The authors publish no such recipe: ours."""
        return cls(initial_time_scale=0.5)

    @classmethod
    def for_clip(cls, n_frames: int) -> Reformulation:
        """Few harmonics, and Gaussians that begin visible throughout, since a short run adds few."""
        return cls(sh_degree=1, sh_degree_t=1, initial_time_scale=1.0, lr_means=5e-4, lr_means_final=5e-6)

    def init(self, cloud: PointCloud, generator: torch.Generator | None = None) -> Params:
        """Gaussians without motion on the points, at the time each was seen or at random times."""
        points, n = cloud.points, len(cloud)
        span = self.time_span or float((points.amax(0) - points.amin(0)).max()) / 3 or 1.0
        anywhen = 1.2 * torch.rand(n, generator=generator) - 0.1
        when, durations = lives(cloud, anywhen, points.new_full((n,), self.initial_time_scale), exact=12**-0.5)
        params = base_params(cloud, self.sh_degree, self.initial_opacity)
        blocks = points.new_zeros(n, self.sh_degree_t * (self.sh_degree + 1) ** 2, 3)
        params |= {
            "gaussian.sh_rest": torch.cat([params["gaussian.sh_rest"], blocks], dim=1),
            "gaussian.quats_right": params["gaussian.quats"].clone(),
            "gaussian.times": self.time_start + span * when,
            "gaussian.log_time_scales": (durations * span).log(),
            "time.span": torch.tensor([span]),
        }
        return params | (_leaning if cloud.looks is None else _looking)(cloud, params, span, self)

    def like(self, params: Params) -> Reformulation:
        """In their unit of time."""
        known = self.time_span or "time.span" not in params
        return self if known else replace(self, time_span=float(params["time.span"]))

    def deform(self, params: Params, t: float | Tensor, camera: int | None = None) -> Gaussians:
        """The cut at time t; every camera sees the same."""
        return deform(params, t, self)

    def regularise(self, params: Params, t: float | Tensor) -> Float[Tensor, ""]:
        """Rigidity and stillness, where they have a weight."""
        means = need(params, "gaussian.means")
        loss = means.new_zeros(())
        if not self.rot_4d or not (self.rigidity or self.stillness):
            return loss
        displacement = velocity(params, self) * _span(params, self)
        if self.rigidity:
            loss = loss + self.rigidity * roughness(means, displacement, self.neighbours, self.patch, draw=self.draw)
        return loss + self.stillness * (displacement.square().sum(-1) + 1e-20).sqrt().mean()

    def param_groups(self, params: Params, extent: float) -> dict[str, Schedule]:
        """All but the buffer ``time.span``."""
        rates = {
            "means": Schedule(self.lr_means * extent, self.lr_means_final * extent),
            "times": Schedule(self.lr_times * float(_span(params, self))),
            "log_time_scales": Schedule(self.lr_time_scales),
            "quats": Schedule(self.lr_quats),
            "quats_right": Schedule(self.lr_quats),
            "scales": Schedule(self.lr_scales),
            "opacities": Schedule(self.lr_opacities),
            "sh_dc": Schedule(self.lr_sh),
            "sh_rest": Schedule(self.lr_sh / 20),
        }
        return schedules(params, "", rates if self.rot_4d else {k: v for k, v in rates.items() if k != "quats_right"})

    def at_step(self, step: int, steps: int) -> Reformulation:
        """The cosines that take part and the patch at a training step."""
        if step >= steps:
            return self
        active = sum(step >= start * steps for start in self.cosines_from)
        return replace(self, sh_degree_t=min(self.sh_degree_t, active), draw=step)

    def jittered(self, params: Params, generator: torch.Generator | None = None) -> Params:
        """Every Gaussian shifted along its own path by a part of its duration, so that copies share out the time."""
        times, span = need(params, "gaussian.times"), _span(params, self)
        noise = torch.randn(times.shape, generator=generator, dtype=times.dtype).to(times.device)
        spread = 0.5 * torch.minimum(_time_deviation(params, self), span)
        moved = _within(times + spread * noise, self.time_start - 0.1 * span, self.time_start + 1.1 * span)
        return params | {
            "gaussian.times": moved,
            "gaussian.means": params["gaussian.means"] + velocity(params, self) * (moved - times)[:, None],
        }

    def shrunk(self, params: Params, factor: float) -> Params:
        """Params with every spatial scale, and with ``split_time`` every temporal one, divided by a factor."""
        smaller = super().shrunk(params, factor)
        if not self.split_time:
            return smaller
        return smaller | {"gaussian.log_time_scales": params["gaussian.log_time_scales"] - math.log(factor)}


def deform(params: Params, t: float | Tensor, config: Reformulation) -> Gaussians:
    """The cut through space and time at clip-normalised time t.

    Args:
        params: see the module's description.
        t: a number or a tensor of one element; differentiable.
        config: hyper-parameters.

    Raises:
        ShapeError: a tensor is missing, or there are fewer colour coefficients than the degrees say.
    """
    fields, span = fields_of(params), _span(params, config)
    time = torch.as_tensor(t, dtype=span.dtype, device=span.device).reshape(())
    ahead = config.time_start + time * span - need(params, "gaussian.times")
    shape, drift, variance = _cut(params, config)
    opacities = torch.sigmoid(fields["opacities"]) * visible_share(ahead, variance, config)
    means = need(params, "gaussian.means")
    return Gaussians(
        means=means if drift is None else means + drift * ahead[:, None],
        opacities=opacities,
        sh=colors_at(harmonics(fields), 2 * math.pi * ahead / span, config),
        anchors=means if config.seen_at == "rest" and drift is not None else None,
        **shape,
    )


def _leaning(cloud: PointCloud, params: Params, span: float, config: Reformulation) -> Params:
    """Rotors and time scales that tilt round Gaussians into the direction in which their points move.

    With the deviation s in space and τ in time to be kept, velocity v asks for tan θ = v τ²/(τ² - s²) towards v.
    """
    if cloud.velocities is None or not (config.rot_4d and config.flipped):
        return {}
    speed = torch.linalg.vector_norm(cloud.velocities, dim=1) / span
    space, time = (params[f"gaussian.{name}"].exp() ** 2 for name in ("scales", "log_time_scales"))
    space = torch.minimum(space[:, 0], time / 2)
    angle = torch.atan(speed * time / (time - space))
    toward = unit_length(cloud.velocities, dim=1).flip(-1) * (angle / 2).sin()[:, None]
    upright = (angle / 2).cos()[:, None]
    return {
        "gaussian.quats": torch.cat([upright, toward], dim=1),
        "gaussian.quats_right": torch.cat([upright, -toward], dim=1),
        "gaussian.log_time_scales": ((time - space * angle.sin() ** 2) / angle.cos() ** 2).log() / 2,
    }


def _looking(cloud: PointCloud, params: Params, span: float, config: Reformulation) -> Params:
    """Rotors and scales of Gaussians in space and time whose slices have the looks of the points, and move as these do.

    With covariance S in space, variance τ² in time to be kept and velocity v, it is ``[[S + τ² v vᵀ, τ² v], [τ² vᵀ, τ²]]``.
    """
    if cloud.looks is None or not config.rot_4d:
        return {}
    time = need(params, "gaussian.log_time_scales").double().exp()[:, None, None] ** 2
    speed = torch.zeros_like(cloud.points) if cloud.velocities is None else cloud.velocities / span
    speed = speed.double()[:, :, None]
    space = covariances(cloud.looks).double() + time * speed @ speed.mT
    whole = torch.cat([torch.cat([space, time * speed], dim=2), torch.cat([time * speed.mT, time], dim=2)], dim=1)
    values, axes = torch.linalg.eigh(whole)
    order = axes[:, 3].abs().argsort(dim=1)  # the axis most along time comes last
    values, axes = values.gather(1, order), axes.gather(2, order[:, None].expand(-1, 4, -1))
    mirrored = torch.linalg.det(axes) < 0
    axes = torch.where(mirrored[:, None, None] & (torch.arange(4) == 0), -axes, axes)
    left, right = rotors(axes, config.flipped)
    scales = values.clamp_min(1e-20).log() / 2
    fields = {"quats": left, "quats_right": right, "scales": scales[:, :3], "log_time_scales": scales[:, 3]}
    return {f"gaussian.{name}": value.to(cloud.points) for name, value in fields.items()}


def rotors(turn: Float[Tensor, "n 4 4"], flipped: bool = True) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Left and right unit quaternion of 4D rotations: what :func:`rotation` turns back into them."""
    products = (turn.flatten(1) @ _PRODUCTS[flipped].to(turn).T / 4).unflatten(1, (4, 4))
    column = torch.linalg.vector_norm(products, dim=1).argmax(dim=1)
    left = normalize(products.gather(2, column[:, None, None].expand(-1, 4, 1))[..., 0])
    return left, (left[:, None] @ products)[:, 0]


def rotation(left: Float[Tensor, "n 4"], right: Float[Tensor, "n 4"], flipped: bool = True) -> Float[Tensor, "n 4 4"]:
    """The 4D rotation of two quaternions: a left-isoclinic one times a right-isoclinic one.

    Args:
        left: wxyz, of any length.
        right: equal to ``left`` for a rotation that leaves time alone (if ``flipped``): in space it is then that of the
            quaternion (w, -z, -y, -x).
        flipped: reverse the order of rows and columns, which puts time last.
    """
    pairs = (normalize(left)[:, :, None] * normalize(right)[:, None, :]).flatten(1)
    return (pairs @ _PRODUCTS[flipped].to(pairs)).unflatten(1, (4, 4))


def _products(flipped: bool) -> Float[Tensor, "16 16"]:
    """What the rotation gets from each product of a left and a right component: it is linear in them."""
    a, b, c, d = torch.eye(4).unbind(-1)
    isoclinic = torch.stack([a, -b, -c, -d, b, a, -d, c, c, d, a, -b, d, -c, b, a], dim=-1).unflatten(-1, (4, 4))
    other = torch.stack([a, b, c, d, -b, a, -d, c, -c, d, a, -b, -d, -c, b, a], dim=-1).unflatten(-1, (4, 4))
    rotations = isoclinic[:, None] @ other[None]
    return (rotations.flip(-1, -2) if flipped else rotations).reshape(16, 16)


_PRODUCTS = {flipped: _products(flipped) for flipped in (True, False)}


def velocity(params: Params, config: Reformulation) -> Float[Tensor, "n 3"]:
    """World units per unit of native time that each Gaussian moves."""
    if not config.rot_4d:
        return torch.zeros_like(need(params, "gaussian.means"))
    space, time = _axes(params, config)
    return (space @ time[:, :, None])[..., 0] / _variance(time)[:, None]


def visible_share(ahead: Float[Tensor, "n"], variance: Float[Tensor, "n"], config: Reformulation) -> Float[Tensor, "n"]:
    """What is left of the opacity at a time ``ahead`` of each Gaussian's own."""
    widened = variance + config.prefilter_var if config.prefilter_var > 0 else variance
    share = torch.exp(-0.5 * ahead.square() / widened)
    return torch.where(share > config.cutoff, share, 0.0) if config.cutoff > 0 else share


def colors_at(
    coefficients: Float[Tensor, "n m 3"], phase: Float[Tensor, "n"], config: Reformulation
) -> Float[Tensor, "n k 3"]:
    """Spherindrical harmonics at a phase (2π a clip), as ordinary spherical-harmonic coefficients.

    Raises:
        ShapeError: there are fewer coefficients than the degrees say.
    """
    k = (config.sh_degree + 1) ** 2
    if coefficients.shape[1] < k * (config.sh_degree_t + 1):
        raise ShapeError(
            f"gaussian.sh_rest: sh_degree {config.sh_degree} and sh_degree_t {config.sh_degree_t} need "
            f"{k * (config.sh_degree_t + 1) - 1} coefficients, found {coefficients.shape[1] - 1}; set the degrees to "
            "what the file holds."
        )
    total = coefficients[:, :k]
    for i in range(1, config.sh_degree_t + 1):
        total = total + torch.cos(i * phase)[:, None, None] * coefficients[:, i * k : (i + 1) * k]
    return total


def _cut(params: Params, config: Reformulation) -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
    """Shape of the cut, velocity and variance in time."""
    if not config.rot_4d:
        shape = {"quats": normalize(need(params, "gaussian.quats")), "scales": need(params, "gaussian.scales").exp()}
        return shape, None, _time_deviation(params, config).square()
    space, time = _axes(params, config)
    variance = _variance(time)
    drift = (space @ time[:, :, None])[..., 0] / variance[:, None]
    across = space - drift[:, :, None] * time[:, None, :]
    return {"covars": across @ across.mT}, drift, variance


def _axes(params: Params, config: Reformulation) -> tuple[Float[Tensor, "n 3 4"], Float[Tensor, "n 4"]]:
    """Rows of A D for space and for time."""
    turn = rotation(need(params, "gaussian.quats"), need(params, "gaussian.quats_right"), config.flipped)
    logs = torch.cat([need(params, "gaussian.scales"), need(params, "gaussian.log_time_scales")[:, None]], dim=1)
    scaled = turn * logs.exp()[:, None, :]
    return scaled[:, :3], scaled[:, 3]


def _variance(time: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
    return time.square().sum(-1).clamp_min(TINY)


def _time_deviation(params: Params, config: Reformulation) -> Float[Tensor, "n"]:
    if config.rot_4d:
        return _variance(_axes(params, config)[1]).sqrt()
    logs = need(params, "gaussian.log_time_scales")
    return (logs if config.variance_from == "deviation" else 0.5 * logs).exp()


def _within(times: Float[Tensor, "n"], low: Tensor, high: Tensor) -> Float[Tensor, "n"]:
    """Times mirrored at the ends of a range, and held there when that does not suffice."""
    mirrored = torch.where(times < low, 2 * low - times, torch.where(times > high, 2 * high - times, times))
    return torch.minimum(torch.maximum(mirrored, low), high)


def _span(params: Params, config: Reformulation) -> Float[Tensor, ""]:
    if config.time_span:
        return need(params, "gaussian.means").new_tensor(config.time_span)
    return need(params, "time.span").reshape(())
