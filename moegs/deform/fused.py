"""Several motion models in one: the union of their Gaussians, each dimmed by how far it is to be trusted.

Part k's tensors carry its number: ``gaussian.means`` becomes ``gaussian.<k>.means``, ``gaussian.spline.quats`` becomes
``gaussian.<k>.spline.quats`` and a shared ``plane.xy`` becomes ``<k>.plane.xy``. Every population may hold

    responsibility [n]       factor in [0, 1] (MoE-GS's responsibilities, a constant)
    volume_weights [n]       the factor sigmoid(volume_weights + t volume_times) (MoE-GS's volume router, learnable)
    volume_times [n]

and with f the product of both factors the opacity is ``o f`` (``scaling="opacity"``) or ``1 - (1 - o)^f``
(``scaling="density"``): the first dims a surface on which several models agree, the second keeps it closed, because
optical depths that are shared out among the models add up again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.deform._fields import one_of
from moegs.deform.prior import Prior, Schedule, from_config, get, register, to_config
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, concatenate
from moegs.gaussians.params import PREFIX, Params, count, populations

MAX_PARTS = 10  # numbers of one digit: alphabetical order is the order of the parts
FACTORS = ("responsibility", "volume_weights", "volume_times")
_OPAQUE = 1 - 1e-6  # the gradient of (1 - o)^f is infinite at o = 1


@register
@dataclass(frozen=True)
class Fused(Prior):
    """Hyper-parameters: the parts' priors by name, each with its own hyper-parameters.

    Attributes:
        parts: ``(prior name, configuration)`` of each part, in order, at most ten.
        scaling: how the factors act on opacities, see the module's description.
        train: ``"all"`` trains what the parts train, ``"volume"`` the volume weights alone.
        lr_weights: learning rate of ``volume_weights``.
        lr_times: learning rate of ``volume_times``.
        lr_decay: both fall log-linearly to this fraction of themselves.
    """

    name: ClassVar[str] = "fused"

    parts: tuple[tuple[str, dict[str, Any]], ...] = (("polynomial", {}), ("interpolation", {}))
    scaling: str = "opacity"
    train: str = "all"
    lr_weights: float = 0.5
    lr_times: float = 0.05
    lr_decay: float = 0.1

    def __post_init__(self) -> None:
        one_of(self.name, "scaling", self.scaling, ("opacity", "density"))
        one_of(self.name, "train", self.train, ("all", "volume"))
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise ConfigError(f"prior 'fused', option 'parts': expected 1 to {MAX_PARTS} parts, got {len(self.parts)}.")
        if any(name == self.name for name, _ in self.parts):
            raise ConfigError("prior 'fused', option 'parts': a fused model cannot be fused again; fuse its parts.")
        if featured := [p.name for p in self.priors if p.decoder is not None]:
            raise ConfigError(
                f"prior 'fused', option 'parts': {featured[0]!r} splats features for a decoder, which an image of "
                "several models together cannot have; train it with plain colours."
            )

    @classmethod
    def of(cls, priors: Sequence[Prior], **options: Any) -> Self:
        """The fusion of priors."""
        return cls(tuple((p.name, json.loads(json.dumps(to_config(p)))) for p in priors), **options)

    @classmethod
    def for_clip(cls, n_frames: int) -> Self:
        return cls.of([get(name).for_clip(n_frames) for name, _ in cls().parts])

    @property
    def priors(self) -> tuple[Prior, ...]:
        """The parts' priors."""
        return tuple(from_config(name, config) for name, config in self.parts)

    def init(self, cloud: PointCloud, generator: torch.Generator | None = None) -> Params:
        """The points dealt out among the parts."""
        dealt = [cloud[slice(k, None, len(self.parts))] for k in range(len(self.parts))]
        return merge([p.init(c, generator) for p, c in zip(self.priors, dealt, strict=True)])

    def deform(self, params: Params, t: float | Tensor, camera: int | None = None) -> Gaussians:
        own = split(params, len(self.parts))
        now = concatenate([p.deform(q, t, camera) for p, q in zip(self.priors, own, strict=True)])
        return replace(now, opacities=dimmed(now.opacities, factor(params, t), self.scaling))

    def regularise(self, params: Params, t: float | Tensor) -> Float[Tensor, ""]:
        if self.train == "volume":
            return super().regularise(params, t)
        own = split(params, len(self.parts))
        return torch.stack([p.regularise(q, t) for p, q in zip(self.priors, own, strict=True)]).sum()

    def param_groups(self, params: Params, extent: float) -> dict[str, Schedule]:
        if self.train == "volume":
            rates = {"volume_weights": self.lr_weights, "volume_times": self.lr_times}
            named = {k: rates[k.rpartition(".")[2]] for k in params if k.rpartition(".")[2] in rates}
            return {k: Schedule(rate, rate * self.lr_decay) for k, rate in named.items()}
        own = split(params, len(self.parts))
        groups: dict[str, Schedule] = {}
        for k, (prior, part) in enumerate(zip(self.priors, own, strict=True)):
            groups |= {_numbered(name, k): rate for name, rate in prior.param_groups(part, extent).items()}
        return groups

    def at_step(self, step: int, steps: int) -> Self:
        now = [p.at_step(step, steps) for p in self.priors]
        return replace(self, parts=type(self).of(now).parts) if step < steps else self

    def moved(self, params: Params, offsets: Float[Tensor, "n 3"]) -> Params:
        own = iter(torch.split(offsets, [count(p) for p in split(params, len(self.parts))]))
        return self._each(params, lambda prior, part: prior.moved(part, next(own)))

    def jittered(self, params: Params, generator: torch.Generator | None = None) -> Params:
        return self._each(params, lambda prior, part: prior.jittered(part, generator))

    def shrunk(self, params: Params, factor: float) -> Params:
        return self._each(params, lambda prior, part: prior.shrunk(part, factor))

    def _each(self, params: Params, edit: Callable[[Prior, Params], Params]) -> Params:
        own = split(params, len(self.parts))
        edited = merge([edit(prior, part) for prior, part in zip(self.priors, own, strict=True)])
        return {k: edited.get(k, v) for k, v in params.items()}


def merge(parts: Sequence[Params]) -> Params:
    """Raw tensors of several models in one dict, numbered; the parts' Gaussians follow one another in order."""
    return {_numbered(name, k): value for k, part in enumerate(parts) for name, value in part.items()}


def split(params: Params, n_parts: int) -> list[Params]:
    """The parts that :func:`merge` joined, without the factors."""
    parts: list[Params] = [{} for _ in range(n_parts)]
    for name, value in params.items():
        within, rest = (PREFIX, name[len(PREFIX) :]) if name.startswith(PREFIX) else ("", name)
        number, _, own = rest.partition(".")
        if not (number.isdigit() and int(number) < n_parts):
            raise ConfigError(f"params[{name!r}]: expected the number of a part, 0 to {n_parts - 1}, before its name.")
        if not (within and own.rpartition(".")[2] in FACTORS):
            parts[int(number)][within + own] = value
    return parts


def factor(params: Params, t: float | Tensor) -> Float[Tensor, "n"] | None:
    """What the factors of all Gaussians come to at time t; None where there are none."""
    pieces = [_factor(params, f"{PREFIX}{p}.", n, t) for p, n in populations(params).items()]
    if all(p is None for p in pieces):
        return None
    ones = [next(p for p in pieces if p is not None).new_ones(n) for n in populations(params).values()]
    return torch.cat([one if p is None else p for p, one in zip(pieces, ones, strict=True)])


def _factor(params: Params, start: str, n: int, t: float | Tensor) -> Float[Tensor, "n"] | None:
    constant, weights = params.get(start + "responsibility"), params.get(start + "volume_weights")
    if weights is None:
        return constant
    learned = torch.sigmoid(weights + t * params[start + "volume_times"])
    return learned if constant is None else learned * constant


def dimmed(opacities: Float[Tensor, "n"], by: Float[Tensor, "n"] | None, scaling: str) -> Float[Tensor, "n"]:
    """Opacities after a factor in [0, 1]: ``o f`` or, keeping optical depths, ``1 - (1 - o)^f``."""
    if by is None:
        return opacities
    if scaling == "opacity":
        return opacities * by
    return -torch.expm1(by * torch.log1p(-opacities.clamp_max(_OPAQUE)))


def _numbered(name: str, k: int) -> str:
    return f"{PREFIX}{k}.{name[len(PREFIX) :]}" if name.startswith(PREFIX) else f"{k}.{name}"
