"""Flat parameter dicts with one or several populations."""

from __future__ import annotations

import pytest
import torch

from moegs.errors import ShapeError
from moegs.gaussians import count, join, populations, take
from moegs.gaussians.densify import field


def two_populations() -> dict[str, torch.Tensor]:
    return {
        "gaussian.b.means": torch.arange(6.0).view(2, 3),
        "gaussian.a.means": torch.arange(9.0).view(3, 3) + 100,
        "gaussian.a.opacities": torch.zeros(3),
        "gaussian.b.opacities": torch.ones(2),
        "mlp.weight": torch.ones(7),
    }


def test_order_is_alphabetical_by_population():
    params = two_populations()
    assert populations(params) == {"a": 3, "b": 2} and count(params) == 5
    assert field(params, "means")[0, 0] == 100 and field(params, "opacities").tolist() == [0, 0, 0, 1, 1]


def test_take_cuts_each_population_and_leaves_shared_tensors():
    kept = take(two_populations(), torch.tensor([True, False, False, False, True]))
    assert populations(kept) == {"a": 1, "b": 1}
    assert kept["gaussian.b.means"].tolist() == [[3, 4, 5]] and len(kept["mlp.weight"]) == 7
    by_index = take(two_populations(), torch.tensor([0, 4]))
    assert all(torch.equal(by_index[k], v) for k, v in kept.items())


def test_join_undoes_a_split_within_populations():
    params = two_populations()
    mask = torch.tensor([True, False, True, False, True])
    joined = join([take(params, mask), take(params, ~mask)])
    assert populations(joined) == populations(params)
    assert joined["gaussian.a.means"][:, 0].tolist() == [100, 106, 103]


def test_disagreeing_tensors_are_named():
    params = two_populations() | {"gaussian.a.quats": torch.ones(4, 4)}
    with pytest.raises(ShapeError, match=r"gaussian\.a"):
        populations(params)


def test_parts_with_other_tensors_are_not_joined():
    params = two_populations()
    with pytest.raises(ShapeError, match=r"'gaussian\.lives' is in some parts and not in others"):
        join([params, params | {"gaussian.lives": torch.ones(4, 2)}])
    with pytest.raises(ShapeError, match="at least one part"):
        join([])
