"""Dropping by score: what is left is an ordinary mixture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.params import take
from moegs.prune import contribution, criterion, gated_contribution, kept_rows, prune, prune_in_rounds
from moegs.route import Mixture, RouterConfig, load_mixture, render_experts, render_mixture, save_mixture
from tests.route import tiny


@pytest.fixture(scope="module")
def mixture():
    return tiny.mixture(torch.float32)


def test_the_smallest_go_and_rows_follow(mixture):
    scores = torch.randperm(16, generator=torch.Generator().manual_seed(0)).float()
    pruned, report = prune(mixture, scores, ratio=0.5)
    keep = scores >= 8
    assert report.before == {"a": 7, "b": 9} and report.dropped == 8 and report.emptied == ()
    assert report.after == {"a": int(keep[:7].sum()), "b": int(keep[7:].sum())}
    assert report.largest_dropped == 7.0
    for name in ("base", "view", "time"):
        assert torch.equal(getattr(pruned.router, name), getattr(mixture.router, name)[keep])
    assert all(torch.equal(x, y) for x, y in zip(pruned.router.layers, mixture.router.layers, strict=True))
    expected = take(mixture.experts["b"].params, keep[7:])
    assert all(torch.equal(pruned.experts["b"].params[k], v) for k, v in expected.items())
    assert len(mixture.experts["a"]) == 7


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.93), st.integers(0, 100))
def test_ratio_is_exact(mixture, ratio, seed):
    scores = torch.randint(0, 4, (16,), generator=torch.Generator().manual_seed(seed)).float()  # many ties
    pruned, report = prune(mixture, scores, ratio=ratio)
    assert report.dropped == int(ratio * 16) == 16 - sum(pruned.router.counts)


def test_equals_go_from_every_expert(mixture):
    _, report = prune(mixture, torch.zeros(16), keep=8)
    assert 0 < report.after["a"] < 7 and 0 < report.after["b"] < 9
    assert prune(mixture, torch.zeros(16), keep=8)[1] == report


def test_rounds_reach_the_ratio_and_score_afresh(mixture):
    asked = []

    def score(m, views):
        asked.append(sum(m.router.counts))
        return gated_contribution(m, views, backend="reference")

    views = tiny.views()
    pruned, report = prune_in_rounds(mixture, score, views, ratio=0.5, rounds=4)
    assert asked == [16, 14, 12, 10] and sum(pruned.router.counts) == 8 == sum(report.after.values())
    assert report.before == {"a": 7, "b": 9} and report.dropped == 8
    one, _ = prune_in_rounds(mixture, score, views, ratio=0.5, rounds=1)
    at_once, _ = prune(mixture, gated_contribution(mixture, views, backend="reference"), ratio=0.5)
    assert torch.equal(one.router.base, at_once.router.base)
    with pytest.raises(ConfigError, match="at least one round"):
        prune_in_rounds(mixture, score, views, ratio=0.5, rounds=0)
    with pytest.raises(ConfigError, match="not an iterator"):
        prune_in_rounds(mixture, score, iter(views), ratio=0.5, rounds=2)


def test_threshold(mixture):
    pruned, report = prune(mixture, torch.arange(16.0), threshold=3.0)
    assert report.after == {"a": 4, "b": 9} and report.largest_dropped == 2.0
    assert prune(mixture, torch.ones(16), threshold=0.5)[1].largest_dropped is None
    assert sum(pruned.router.counts) == 13 and report.to_json()["fraction"] == 3 / 16


def test_dropping_what_is_not_seen_changes_nothing(mixture):
    view = tiny.views()[0]
    far = mixture.experts["a"].params | {"gaussian.means": mixture.experts["a"].params["gaussian.means"].clone()}
    far["gaussian.means"][3] = torch.tensor([0.0, 0.0, -50.0])
    hidden = type(mixture)(
        {"a": type(mixture.experts["a"])(mixture.experts["a"].prior, far), "b": mixture.experts["b"]}, mixture.router
    )
    scores = torch.ones(16)
    scores[3] = 0
    pruned, _ = prune(hidden, scores, threshold=0.5)
    one, two = (render_mixture(m, view.camera, 0.25, backend="reference").color for m in (hidden, pruned))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["volume-pixel", "volume", "pixel"])
def test_an_emptied_expert_leaves_and_is_named(kind):
    config = RouterConfig(kind=kind, shared=False)
    whole = tiny.mixture(torch.float32, config=config)
    pruned, report = prune(whole, torch.cat([torch.zeros(7), torch.ones(9)]), threshold=0.5)
    assert report.emptied == ("a",) and report.after == {"b": 9} and list(pruned.experts) == ["b"]
    for layer, old in zip(pruned.router.layers, whole.router.layers, strict=True):
        assert torch.equal(layer, old[1:])
    view = tiny.views()[0]
    alone = render_experts([whole.experts["b"]], view.camera, 0.25, backend="reference").color[0]
    torch.testing.assert_close(render_mixture(pruned, view.camera, 0.25, backend="reference").color, alone)


def test_pruning_by_gates_goes_on_when_one_expert_is_left():
    whole, views = tiny.mixture(torch.float32), tiny.views()
    far = whole.experts["a"].params | {"gaussian.means": whole.experts["a"].params["gaussian.means"] - 50.0}
    unseen = Mixture({"a": replace(whole.experts["a"], params=far), "b": whole.experts["b"]}, whole.router)
    pruned, report = prune_in_rounds(unseen, criterion("gate"), views, ratio=0.75, rounds=4)
    assert report.emptied == ("a",) and pruned.router.counts == (4,)
    by_hand, _ = prune(pruned, contribution(pruned, views), keep=2)
    assert torch.equal(by_hand.router.base, prune(pruned, criterion("gate")(pruned, views), keep=2)[0].router.base)


def test_saves_and_loads(mixture, tmp_path):
    pruned, _ = prune(mixture, torch.arange(16.0), ratio=0.4)
    save_mixture(pruned, tmp_path / "m")
    again = load_mixture(tmp_path / "m")
    view = tiny.views()[0]
    one, two = (render_mixture(m, view.camera, 0.25, backend="reference").color for m in (pruned, again))
    assert torch.equal(one, two)


def test_refusals(mixture):
    scores = torch.ones(16)
    wrong = ({"ratio": 1.0}, {"ratio": -0.1}, {"threshold": 2.0}, {"keep": 0}, {"keep": 17})
    for options in ({}, {"ratio": 0.1, "threshold": 0.1}, *wrong):
        with pytest.raises(ConfigError, match="prune"):
            prune(mixture, scores, **options)
    with pytest.raises(ShapeError, match="16 scores"):
        prune(mixture, torch.ones(15), ratio=0.1)
    with pytest.raises(ConfigError, match="finite"):
        prune(mixture, scores.index_fill(0, torch.tensor(2), float("nan")), ratio=0.1)


def test_kept_rows_may_drop_an_expert(mixture):
    left = kept_rows(mixture, {"b": torch.arange(9) < 4})
    assert left.router.counts == (4,) and torch.equal(left.router.base, mixture.router.base[7:11])


def test_masks_in_any_order_keep_each_expert_its_rows():
    mixture = tiny.mixture()
    masks = {n: torch.arange(len(e)) % 2 == 0 for n, e in mixture.experts.items()}
    one, other = kept_rows(mixture, masks), kept_rows(mixture, dict(reversed(masks.items())))
    assert list(one.experts) == list(other.experts) == list(mixture.experts)
    assert torch.equal(one.router.base, other.router.base)
    with pytest.raises(ConfigError, match="a mask for 'nobody'"):
        kept_rows(mixture, masks | {"nobody": masks["a"]})
    for wrong in (masks["a"][:-1], masks["a"].long()):
        with pytest.raises(ShapeError, match=r"masks\['a'\]: expected bool of shape"):
            kept_rows(mixture, masks | {"a": wrong})


def test_a_mixture_in_double_precision_stays_in_it(tmp_path):
    single = tiny.mixture()
    double = Mixture({n: e.to(torch.float64) for n, e in single.experts.items()}, single.router.double())
    save_mixture(double, tmp_path)
    view = tiny.views()[0]
    for mixture in (load_mixture(tmp_path), prune(double, torch.arange(float(sum(double.router.counts))), ratio=0.2)[0]):
        seen = replace(view.camera, viewmat=view.camera.viewmat.double(), K=view.camera.K.double())
        assert render_mixture(mixture, seen, view.time).color.dtype == torch.float64
