"""Small things that priors do alike: reading a population's tensors, joining harmonics, naming learning rates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.deform._init import prefix
from moegs.deform.prior import Schedule
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.params import Params, populations


class Fields(dict[str, Tensor]):
    """Tensors of one population by field name; one that is missing is named as params would have it."""

    def __init__(self, start: str, fields: dict[str, Tensor]):
        super().__init__(fields)
        self.start = start

    def __missing__(self, field: str) -> Tensor:
        return need({self.start + name: value for name, value in self.items()}, self.start + field)


def fields_of(params: Params, population: str = "") -> Fields:
    """Tensors of one population by field name, ``gaussian.<population>.`` removed.

    Raises:
        ShapeError: they are not of as many Gaussians; also where one is asked for that is missing.
    """
    start = prefix(population)
    own = {name: value for name, value in params.items() if name.startswith(start)}
    populations(own)  # refuses fields of other numbers of Gaussians
    return Fields(start, {name[len(start) :]: value for name, value in own.items()})


def need(params: Params, name: str) -> Tensor:
    """The tensor of a name.

    Raises:
        ShapeError: params does not hold it.
    """
    if name not in params:
        raise ShapeError(f"params: tensor {name!r} is missing; found {', '.join(sorted(params)) or 'nothing'}.")
    return params[name]


def harmonics(fields: dict[str, Tensor]) -> Float[Tensor, "n k 3"]:
    """Spherical-harmonic coefficients, DC first."""
    rest = fields["sh_rest"]
    return torch.cat([fields["sh_dc"], rest], dim=1) if rest.shape[1] else fields["sh_dc"]


def schedules(params: Params, population: str, rates: dict[str, Schedule]) -> dict[str, Schedule]:
    """Schedules by full tensor name, for those fields that params holds."""
    named = {prefix(population) + field: rate for field, rate in rates.items()}
    return {name: rate for name, rate in named.items() if name in params}


def one_of(prior: str, option: str, value: str, choices: tuple[str, ...]) -> None:
    """Check a named option.

    Raises:
        ConfigError: the value is not among the choices.
    """
    if value not in choices:
        raise ConfigError(f"prior {prior!r}, option {option!r}: expected {' or '.join(choices)}, got {value!r}.")
