"""Sparse gates: what is left out, and how little that changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.errors import ConfigError
from moegs.render import Camera
from moegs.route import Mixture, RouterConfig, VolumePixelRouter, render_mixture, render_sparse
from tests.route.test_mixture import make_mixture


def wide_camera() -> Camera:
    return Camera(torch.eye(4), torch.tensor([[70.0, 0, 40], [0, 70.0, 30], [0, 0, 1]]), 80, 60, near=0.1)


def decided(scale: float) -> Mixture:
    """A mixture whose first expert is trusted to the left, the others to the right."""
    mixture = make_mixture()
    router = VolumePixelRouter([len(e) for e in mixture.experts.values()])
    means = torch.cat([e.at(0.4).means for e in mixture.experts.values()])
    sign = torch.ones(len(means))
    sign[len(mixture.experts["a"]) :] = -1
    with torch.no_grad():
        router.base.copy_(-scale * sign * torch.sign(means[:, 0]))
    return Mixture(mixture.experts, router)


@torch.no_grad()
def test_nothing_is_left_out_at_zero():
    mixture = decided(3.0)
    whole, sparse = render_mixture(mixture, wide_camera(), 0.4), render_sparse(mixture, wide_camera(), 0.4, 0.0)
    assert sparse.share == 1.0
    torch.testing.assert_close(sparse.color, whole.color, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_error_stays_within_the_bound():
    mixture, min_gate = decided(6.0), 0.1
    whole = render_mixture(mixture, wide_camera(), 0.4)
    sparse = render_sparse(mixture, wide_camera(), 0.4, min_gate)
    assert sparse.share < 1.0
    spread = (whole.images.amax(0) - whole.images.amin(0)).max()
    assert (sparse.color - whole.color).abs().max() <= 2 * min_gate * spread
    torch.testing.assert_close(sparse.gates.sum(0), torch.ones(60, 80))


def test_a_threshold_that_could_drop_everybody_is_refused():
    with pytest.raises(ConfigError, match="min_gate"):
        render_sparse(decided(1.0), wide_camera(), 0.4, 0.34)


@torch.no_grad()
@pytest.mark.parametrize("config", [RouterConfig(inputs=("color",)), RouterConfig(context=3), RouterConfig()])
def test_what_was_not_drawn_does_not_move_the_gates_of_others(config):
    """The third expert is trusted nowhere, but its picture is part of what the other gates are made from."""
    whole = make_mixture()
    experts = whole.experts | {"c": replace(whole.experts["b"], background=(1.0, 1.0, 1.0))}
    router = VolumePixelRouter([len(e) for e in experts.values()], config, generator=torch.Generator().manual_seed(0))
    router.base[-len(experts["c"]) :] = -300.0
    for weights in router.layers:
        weights *= 3
    mixture = Mixture(experts, router)
    exact, sparse = render_mixture(mixture, wide_camera(), 0.4), render_sparse(mixture, wide_camera(), 0.4, 0.01)
    left_out = ~sparse.tiles.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :60, :80]
    covered = left_out[2] & ~left_out[0] & ~left_out[1] & (exact.gates[2] < 1e-6)
    assert int(covered.sum()) > 200
    assert (sparse.gates - exact.gates)[:, covered].abs().max() < 0.05
