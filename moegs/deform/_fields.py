"""Small things that priors do alike: reading a population's tensors, joining harmonics, naming learning rates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.deform._init import prefix
from moegs.deform.prior import Schedule
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.params import Params


def fields_of(params: Params, population: str = "") -> dict[str, Tensor]:
    """Tensors of one population by field name, ``gaussian.<population>.`` removed."""
    start = prefix(population)
    return {k[len(start) :]: v for k, v in params.items() if k.startswith(start)}


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
