"""Scores against brute force in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.errors import ConfigError, DataError
from moegs.expert import Expert
from moegs.prune import (
    CRITERIA,
    blend_sensitivity,
    contribution,
    criterion,
    gate_sensitivity,
    gated_contribution,
    kept_rows,
    opacity,
    random,
)
from moegs.prune.scores import _Gained
from moegs.render import Viewpoint
from moegs.route import Mixture, RouterConfig, render_experts, render_mixture
from tests.route import tiny


def gates_of(mixture, view, weights):
    experts = list(mixture.experts.values())
    render = render_experts(experts, view.camera, view.time, weights)
    return mixture.router.gates(render.features, render.color, render.alpha, view.camera, view.time)


@pytest.mark.parametrize(
    "config",
    [RouterConfig(), RouterConfig(temperature=0.4, context=3, channels=2), RouterConfig(kind="volume"),
     RouterConfig(shared=False, inputs=("rays", "color", "alpha"))],
    ids=["paper", "context", "volume", "own networks"],
)  # fmt: skip
def test_gate_sensitivity_is_the_jacobian_of_the_gates(config):
    mixture, views = tiny.mixture(config=config), tiny.views()
    expected = torch.zeros(sum(mixture.router.counts), dtype=torch.float64)
    for view in views:
        weights = mixture.router.features(view.time).detach()
        jacobian = torch.autograd.functional.jacobian(lambda w, view=view: gates_of(mixture, view, w), weights)
        summed = jacobian.sum((1, 2))  # [k, n, f]
        own = torch.cat([s[rows] for s, rows in zip(summed, rows_of(mixture), strict=True)])
        expected += own.norm(dim=-1) / len(views)
    assert expected.max() > 1e-3
    torch.testing.assert_close(gate_sensitivity(mixture, views).double(), expected, rtol=1e-5, atol=1e-7)


def rows_of(mixture):
    return torch.arange(sum(mixture.router.counts)).split(mixture.router.counts)


def test_a_saturated_gate_hides_the_gaussians_that_carry_the_picture():
    mixture = tiny.mixture(config=RouterConfig(kind="volume"))
    with torch.no_grad():
        mixture.router.base.copy_(torch.where(torch.arange(16) < 7, 400.0, -400.0))
    views = tiny.views()
    carried = gated_contribution(mixture, views)[:7] > 1.0
    assert carried.any()
    gate = gate_sensitivity(mixture, views)[:7][carried]
    blend = blend_sensitivity(mixture, views, probes=16)[:7][carried]
    assert gate.max() < 1e-2 * contribution(mixture, views)[:7][carried].min()
    assert blend.min() > 1e-3


def image_of(mixture, view, gain):
    pieces = gain.split(mixture.router.counts)
    experts = {n: _Gained(e.prior, e.params, gain=g) for (n, e), g in zip(mixture.experts.items(), pieces, strict=True)}
    return render_mixture(Mixture(experts, mixture.router), view.camera, view.time).color


def test_blend_sensitivity_estimates_the_squared_jacobian_of_the_image():
    mixture, view = tiny.mixture(), tiny.views()[0]
    ones = torch.ones(sum(mixture.router.counts), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda g: image_of(mixture, view, g), ones)
    expected = jacobian.square().sum((0, 1, 2))
    got = blend_sensitivity(mixture, [view], probes=600).double()
    seen = expected > 1e-4 * expected.max()
    assert seen.sum() > 8
    torch.testing.assert_close(got[seen], expected[seen], rtol=0.4, atol=0)  # five standard deviations at 600 probes
    assert float((got[seen] / expected[seen]).mean()) == pytest.approx(1.0, abs=0.1)


def test_with_constant_gates_blend_sensitivity_is_what_leaving_one_out_costs():
    mixture, view = tiny.mixture(config=RouterConfig(kind="volume")), tiny.views()[0]
    with torch.no_grad():
        mixture.router.base.zero_()
    got, ones = blend_sensitivity(mixture, [view], probes=600), torch.ones(16, dtype=torch.float64)
    whole = image_of(mixture, view, ones)
    compared = 0
    for i in range(16):
        without = image_of(mixture, view, ones.index_fill(0, torch.tensor(i), 0.0))
        change = float((without - whole).detach().square().sum())
        if change > 1e-2:
            assert float(got[i]) == pytest.approx(change, rel=0.45)
            compared += 1
    assert compared > 5


def test_contributions_are_pixels():
    mixture, view = tiny.mixture(), tiny.views()[0]
    alone = render_experts(list(mixture.experts.values()), view.camera, view.time)
    total = [float(c.sum()) for c in contribution(mixture, [view]).split(mixture.router.counts)]
    assert total == pytest.approx([float(a.sum()) for a in alone.alpha], rel=1e-5)
    assert (gated_contribution(mixture, [view]) <= contribution(mixture, [view]) + 1e-6).all()


def test_opacity_is_the_mean_over_times():
    mixture, views = tiny.mixture(), tiny.views((0.0, 0.5))
    expected = torch.cat([(e.at(0.0).opacities + e.at(0.5).opacities) / 2 for e in mixture.experts.values()])
    torch.testing.assert_close(opacity(mixture, views), expected.float())


def test_random_follows_its_seed():
    mixture = tiny.mixture()
    assert torch.equal(random(mixture, seed=1), random(mixture, seed=1))
    assert not torch.equal(random(mixture, seed=1), random(mixture, seed=2))


def test_scoring_leaves_the_mixture_alone():
    mixture = tiny.mixture()
    before = {k: v.clone() for k, v in mixture.router.state_dict().items()}
    for score in CRITERIA.values():
        values = score(mixture, tiny.views())
        assert values.shape == (16,) and not values.requires_grad and torch.isfinite(values).all()
    assert all(torch.equal(v, before[k]) for k, v in mixture.router.state_dict().items())
    assert all(p.grad is None for p in mixture.router.parameters())


@pytest.mark.parametrize("name", ["blend", "gate", "contribution", "gated-contribution", "opacity"])
def test_a_camera_and_a_time_are_all_that_is_needed(name):
    mixture, views = tiny.mixture(), tiny.views()
    plain = [Viewpoint(view.camera, view.time) for view in views]
    assert torch.equal(criterion(name)(mixture, plain), criterion(name)(mixture, views))


def test_refusals():
    mixture = tiny.mixture()
    with pytest.raises(DataError, match="at least one view"):
        gate_sensitivity(mixture, [])
    with pytest.raises(DataError, match="at least one view"):
        contribution(mixture, [])
    with pytest.raises(ConfigError, match="pixel router"):
        gate_sensitivity(tiny.mixture(config=RouterConfig(kind="pixel", inputs=("rays", "color"))), tiny.views())
    alone = kept_rows(mixture, {"a": torch.ones(len(mixture.experts["a"]), dtype=torch.bool)})
    with pytest.raises(ConfigError, match="one expert alone"):
        gate_sensitivity(alone, tiny.views())
    with pytest.raises(ConfigError, match="expected one of blend"):
        criterion("luck")
    with pytest.raises(ConfigError, match="probes of 1 or more, got 0"):
        blend_sensitivity(mixture, tiny.views(), probes=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["blend", "gate", "contribution", "gated-contribution"])
def test_gradients_are_taken_whoever_asks(name):
    mixture, views = tiny.mixture(), tiny.views()
    with torch.enable_grad():
        expected = criterion(name)(mixture, views)
    assert torch.equal(criterion(name)(mixture, views), expected)


def test_what_is_drawn_follows_the_seed():
    mixture, views = tiny.mixture(), tiny.views()
    scores = {(n, seed): criterion(n, seed)(mixture, views) for n in ("random", "blend", "opacity") for seed in (0, 1)}
    for name in ("random", "blend"):
        assert torch.equal(scores[name, 0], criterion(name)(mixture, views))
        assert not torch.equal(scores[name, 0], scores[name, 1])
    assert torch.equal(scores["opacity", 0], scores["opacity", 1])


def test_opaque_gaussians_still_count():
    mixture, view = tiny.mixture(), tiny.views()[0]
    solid = {n: replace_opacity(e, 12.0) for n, e in mixture.experts.items()}
    assert (blend_sensitivity(Mixture(solid, mixture.router), [view]) > 0).sum() > 5


def replace_opacity(expert: Expert, logit: float) -> Expert:
    solid = {k: torch.full_like(v, logit) if k.endswith("opacities") else v for k, v in expert.params.items()}
    return replace(expert, params=solid)
