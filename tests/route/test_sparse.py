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
def test_what_was_not_drawn_does_not_move_the_gates_of_others():
    """The third expert is trusted nowhere, but its picture is part of what the other gates are made from."""
    whole = make_mixture()
    more = {"opacities": 3.0, "scales": 0.7}
    params = {k: v + more.get(k.rpartition(".")[2], 0.0) for k, v in whole.experts["b"].params.items()}
    experts = whole.experts | {"c": replace(whole.experts["b"], params=params, background=(1.0, 1.0, 1.0))}
    generator = torch.Generator().manual_seed(34)
    router = VolumePixelRouter([len(e) for e in experts.values()], RouterConfig(inputs=("color",)), generator=generator)
    router.base[-len(experts["c"]) :] = -300.0
    for weights in router.layers:
        weights *= 4
    mixture = Mixture(experts, router)
    exact, sparse = render_mixture(mixture, wide_camera(), 0.4), render_sparse(mixture, wide_camera(), 0.4, 0.01)
    assert not sparse.tiles[2].any() and sparse.tiles[:2].all() and exact.gates[2].max() < 1e-6
    assert (sparse.gates - exact.gates).abs().max() < 0.05  # 0.66 with the background in the place of its picture
