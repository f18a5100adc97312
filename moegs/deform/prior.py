"""What every motion prior offers, and the registry that finds one by name.

A prior is a frozen dataclass of hyper-parameters with pure methods; its tensors travel separately as ``Params``. A new
prior is one file that defines such a class and decorates it with :func:`register`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from importlib.metadata import entry_points
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params, count, populations, split_by_population

ENTRY_POINTS = "moegs.priors"  # group in which installed packages name their own priors
_REGISTRY: dict[str, type[Prior]] = {}


@dataclass(frozen=True)
class Schedule:
    """Learning rate of one tensor: log-linear from ``initial`` to ``final`` over the whole run, or constant.

    ``start`` is the fraction of the run before which the tensor is held still.

    Raises:
        ConfigError: a rate is negative or not finite, the final one is 0 (no logarithm reaches that), or the fraction is
            not one.
    """

    initial: float
    final: float | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.initial < math.inf:
            raise ConfigError(f"learning rate: expected a finite number of 0 or more, got {self.initial}.")
        if self.final is not None and self.initial > 0 and not 0 < self.final < math.inf:
            raise ConfigError(
                f"learning rate: expected one above 0 at the end of a run, got {self.final} after {self.initial}; it goes "
                "there in equal ratios, so give a small number instead of 0."
            )
        if not 0 <= self.start <= 1:
            raise ConfigError(f"learning rate: expected a start between 0 and 1 of the run, got {self.start}.")

    def at(self, progress: float) -> float:
        """Learning rate at ``progress`` in [0, 1] of the run."""
        if progress < self.start:
            return 0.0
        if self.final is None or self.initial == 0:
            return self.initial
        u = min(max(progress, 0.0), 1.0)
        return math.exp((1 - u) * math.log(self.initial) + u * math.log(self.final))


@dataclass(frozen=True)
class Prior:
    """Base of all motion priors. Time is clip-normalised: ``t = frame / n_frames`` in [0, 1).

    Raw tensor names that densification, pruning and importers rely on, for each population of Gaussians:
    ``means`` (or what :meth:`moved` understands), ``quats`` [n,4], ``scales`` [n,3] (log), ``opacities`` [n] (logit),
    ``sh_dc`` [n,1,3], ``sh_rest`` [n,k,3].
    """

    name: ClassVar[str] = ""
    fades: ClassVar[bool] = True
    """Whether Gaussians that start from points of a short span are there for that long alone."""

    @classmethod
    def for_clip(cls, n_frames: int) -> Prior:
        """Hyper-parameters that suit a clip of this many frames and a short run on a CPU."""
        return cls()

    @property
    def decoder(self) -> str | None:
        """What ``Expert.decoder`` must be for params that this prior starts: None when colours need no decoding."""
        return None

    def init(self, cloud: PointCloud, generator: torch.Generator | None = None) -> Params:
        """Raw parameters that start from a point cloud."""
        raise ConfigError(f"{type(self).__name__} does not define init().")

    def like(self, params: Params) -> Prior:
        """The prior as :meth:`init` needs it to start Gaussians that can stand beside these."""
        return self

    def deform(self, params: Params, t: float | Tensor, camera: int | None = None) -> Gaussians:
        """The Gaussians at time t. ``camera`` is a training camera's number, for priors that learn a camera offset."""
        raise ConfigError(f"{type(self).__name__} does not define deform().")

    def regularise(self, params: Params, t: float | Tensor) -> Float[Tensor, ""]:
        """The prior's own losses, already weighted."""
        return next(iter(params.values())).new_zeros(())

    def param_groups(self, params: Params, extent: float) -> dict[str, Schedule]:
        """Learning-rate schedule of every trained tensor; what is not named is not trained.

        ``extent`` is that of the scene in world units; rates of positions scale with it.
        """
        raise ConfigError(f"{type(self).__name__} does not define param_groups().")

    def at_step(self, step: int, steps: int) -> Prior:
        """The prior as it stands at a training step (coarse stages, annealing); at ``step == steps`` it is final."""
        return self

    def moved(self, params: Params, offsets: Float[Tensor, "n 3"]) -> Params:
        """Params with every Gaussian displaced by a world-space offset, at all times."""
        return _add_to_field(params, "means", offsets)

    def jittered(self, params: Params, generator: torch.Generator | None = None) -> Params:
        """Freshly cloned or split Gaussians with whatever places them in time perturbed, so that copies part ways."""
        return params

    def shrunk(self, params: Params, factor: float) -> Params:
        """Params with every spatial scale divided by a factor."""
        shift = torch.full((count(params), 1), -math.log(factor))
        return _add_to_field(params, "scales", shift)


def _add_to_field(params: Params, field: str, values: Tensor) -> Params:
    pieces = split_by_population(params, values)
    names = {(f"gaussian.{p}.{field}" if p else f"gaussian.{field}"): p for p in populations(params)}
    return {name: value + pieces[names[name]].to(value) if name in names else value for name, value in params.items()}


def register(prior: type[Prior]) -> type[Prior]:
    """Class decorator that makes a prior known by its ``name``."""
    _REGISTRY[prior.name] = prior
    return prior


def names() -> list[str]:
    """Names of all registered priors, and of those that installed packages offer."""
    return sorted({*_REGISTRY, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def get(name: str) -> type[Prior]:
    """The prior class of a name, imported now if an installed package offers it as an entry point of ``moegs.priors``.

    Raises:
        ConfigError: no prior has this name.
    """
    for point in () if name in _REGISTRY else entry_points(group=ENTRY_POINTS, name=name):
        register(point.load())
    if name not in _REGISTRY:
        own = "one of your own has to be imported first, or offered as an entry point (docs/priors.md)"
        raise ConfigError(f"prior: expected one of {', '.join(names())}, got {name!r}; {own}.")
    return _REGISTRY[name]


def to_config(prior: Prior) -> dict[str, Any]:
    """Hyper-parameters as JSON-ready values."""
    return {f.name: getattr(prior, f.name) for f in fields(prior)}


def from_config(name: str, config: dict[str, Any]) -> Prior:
    """Rebuild a prior from :func:`to_config`.

    Raises:
        ConfigError: the prior is unknown, or a hyper-parameter is unknown or of the wrong type.
    """
    cls = get(name)
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(config) - set(known)):
        raise ConfigError(f"prior {name!r}: unknown option {unknown[0]!r}; it knows {', '.join(sorted(known))}.")
    defaults = cls()
    values = {key: _coerce(name, key, value, getattr(defaults, key)) for key, value in config.items()}
    return replace(defaults, **values)


def _coerce(prior: str, key: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and value is not None and not isinstance(value, type(default)):
        raise ConfigError(f"prior {prior!r}, option {key!r}: expected {_kind(default)}, got {value!r}.")
    return value


def _kind(default: Any) -> str:
    return "a list, as [1, 0.5]" if isinstance(default, tuple) else type(default).__name__
