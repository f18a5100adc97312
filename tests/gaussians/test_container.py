"""The container: shape checks, selection, joining."""

from __future__ import annotations

import pytest
import torch

from moegs.errors import ShapeError
from moegs.gaussians import Gaussians, concatenate, covariances
from tests.render.scenes import mixed_gaussians, random_gaussians


def test_selection_by_mask_index_and_slice():
    gaussians = random_gaussians(6)
    mask = torch.tensor([True, False, True, False, False, True])
    assert torch.equal(gaussians[mask].means, gaussians[torch.tensor([0, 2, 5])].means)
    assert len(gaussians[1:3]) == 2


def test_printed_it_is_a_line():
    assert repr(random_gaussians(12)) == "Gaussians(12, harmonics of degree 2, float32 on cpu)"


def test_concatenation_pads_harmonics_and_mixes_shapes():
    low, high = random_gaussians(3, degree=0), random_gaussians(2, degree=2)
    joined = concatenate([low, Gaussians(high.means, high.opacities, high.sh, covars=covariances(high))])
    assert joined.sh.shape == (5, 9, 3) and joined.sh_degree == 2
    assert joined.by_covar.tolist() == [False] * 3 + [True] * 2
    torch.testing.assert_close(covariances(joined), torch.cat([covariances(low), covariances(high)]))
    assert torch.equal(joined.quats[:3], low.quats) and torch.equal(joined.scales[:3], low.scales)
    again = concatenate([joined[2:], low])
    assert again.by_covar.tolist() == [False, True, True, False, False, False]
    torch.testing.assert_close(covariances(again)[:3], covariances(joined)[2:])
    assert (joined.sh[:3, 1:] == 0).all()


def test_moves_to_another_dtype():
    assert random_gaussians(2).to(torch.float64).sh.dtype == torch.float64
    mixed = mixed_gaussians(6).to(torch.float64)
    assert (mixed.covars.dtype, mixed.by_covar.dtype) == (torch.float64, torch.bool)


def test_shape_must_be_given_exactly_once():
    g = random_gaussians(2)
    with pytest.raises(ShapeError, match="exactly one"):
        Gaussians(g.means, g.opacities, g.sh)
    with pytest.raises(ShapeError, match="exactly one"):
        Gaussians(g.means, g.opacities, g.sh, g.quats, g.scales, covariances(g))
    mask = torch.tensor([True, False])
    with pytest.raises(ShapeError, match="exactly one"):
        Gaussians(g.means, g.opacities, g.sh, g.quats, g.scales, by_covar=mask)
    with pytest.raises(ShapeError, match="by_covar"):
        Gaussians(g.means, g.opacities, g.sh, g.quats, g.scales, covariances(g), by_covar=mask[:1])


@pytest.mark.parametrize(
    ("field", "value"), [("opacities", torch.ones(3)), ("sh", torch.ones(2, 5, 3)), ("quats", torch.ones(2, 3))]
)
def test_wrong_shapes_are_named(field: str, value: torch.Tensor):
    g = random_gaussians(2)
    fields = {n: getattr(g, n) for n in ("means", "opacities", "sh", "quats", "scales")} | {field: value}
    with pytest.raises(Exception, match=field):
        Gaussians(**fields)


def test_features_travel_only_together():
    g = random_gaussians(2)
    fields = {n: getattr(g, n) for n in ("means", "opacities", "sh", "quats", "scales")}
    with pytest.raises(ShapeError, match="features"):
        concatenate([g, Gaussians(**fields, features=torch.ones(2, 3))])
    three = Gaussians(**fields, features=torch.ones(2, 3))
    with pytest.raises(ShapeError, match=r"as many features in every part, got \[3, 4\]"):
        concatenate([three, Gaussians(**fields, features=torch.ones(2, 4))])
    with pytest.raises(ShapeError, match="at least one"):
        concatenate([])


def test_parts_of_two_precisions_are_not_joined():
    with pytest.raises(ShapeError, match=r"one dtype on one device, got torch\.float32 on cpu and torch\.float64"):
        concatenate([random_gaussians(2), random_gaussians(2).to(torch.float64)])
