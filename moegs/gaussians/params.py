"""Raw learnable tensors as a flat dict, and what can be done to them without knowing the prior.

Names that begin with ``gaussian.`` have the Gaussian index as first dimension. A prior whose Gaussians come in several
kinds writes ``gaussian.<population>.<field>``; the Gaussians then count through the populations in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from moegs.errors import ShapeError

Params = dict[str, Tensor]

PREFIX = "gaussian."


def population_of(name: str) -> str | None:
    """Population that a tensor belongs to: ``""`` for the unnamed one, None for a shared tensor."""
    if not name.startswith(PREFIX):
        return None
    return name[len(PREFIX) :].rpartition(".")[0]


def populations(params: Params) -> dict[str, int]:
    """Number of Gaussians in each population, in their global order.

    Raises:
        ShapeError: two tensors of one population disagree in their first dimension.
    """
    counts: dict[str, int] = {}
    for name in sorted(params):
        population = population_of(name)
        if population is None:
            continue
        n = params[name].shape[0]
        if counts.setdefault(population, n) != n:
            raise ShapeError(f"params[{name!r}]: expected {counts[population]} Gaussians like its population, got {n}.")
    return dict(sorted(counts.items()))


def count(params: Params) -> int:
    """Total number of Gaussians."""
    return sum(populations(params).values())


def split_by_population(params: Params, values: Tensor) -> dict[str, Tensor]:
    """Cut a per-Gaussian tensor in global order into one piece a population."""
    counts = populations(params)
    if values.shape[0] != sum(counts.values()):
        raise ShapeError(f"expected {sum(counts.values())} values, one a Gaussian, got {values.shape[0]}.")
    return dict(zip(counts, torch.split(values, list(counts.values())), strict=True))


def take(params: Params, keep: Bool[Tensor, "n"] | Int[Tensor, "m"]) -> Params:
    """Select Gaussians by mask or by index; shared tensors pass through.

    They keep their order: an index says which ones, and naming one twice does not repeat it.
    """
    mask = keep if keep.dtype == torch.bool else _as_mask(params, keep)
    pieces = split_by_population(params, mask)
    return {
        name: value if (p := population_of(name)) is None else value[pieces[p].to(value.device)]
        for name, value in params.items()
    }


def _as_mask(params: Params, index: Tensor) -> Tensor:
    mask = torch.zeros(count(params), dtype=torch.bool, device=index.device)
    mask[index] = True
    return mask


def join(parts: Sequence[Params]) -> Params:
    """Concatenate the Gaussians of several parts, population by population; shared tensors come from the first.

    Raises:
        ShapeError: there are no parts, or they do not all hold the same tensors of Gaussians.
    """
    if not parts:
        raise ShapeError("join: expected at least one part, got none.")
    first = parts[0]
    own = [{name for name in part if population_of(name) is not None} for part in parts]
    if odd := sorted(own[0].union(*own) - own[0].intersection(*own)):
        raise ShapeError(f"join: tensor {odd[0]!r} is in some parts and not in others.")
    return {
        name: value if population_of(name) is None else torch.cat([p[name] for p in parts])
        for name, value in first.items()
    }
