"""Making room: who colours little, and that only as many go as growth lacks places for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.deform import get
from moegs.errors import ConfigError
from moegs.expert import Expert, render_expert
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.densify import DensifyRule, grow
from moegs.gaussians.params import count
from moegs.render import shares
from moegs.train import FitConfig, fit_expert
from moegs.train.idle import coloured, giving_way
from moegs.train.optimizer import ParamsAdam
from tests.train.scenes import small_scene

FRAMES = 8


def views():
    scene = small_scene()
    return [(scene.cameras[c], scene.time(f), c) for c in scene.train for f in range(scene.n_frames)]


def expert(points: torch.Tensor, times: torch.Tensor | None = None, spans: torch.Tensor | None = None) -> Expert:
    prior = replace(get("polynomial").for_clip(FRAMES), initial_opacity=0.5)
    cloud = PointCloud(points, torch.full_like(points, 0.5), times, spans)
    params = prior.init(cloud, torch.Generator().manual_seed(0))
    params["gaussian.scales"].fill_(-2.0)
    return Expert(prior, params)


def middle() -> torch.Tensor:
    return small_scene().cloud.points.mean(0)


def test_shares_are_the_pixels_of_the_image():
    """They add up to the alpha image, whatever the weights."""
    one, scene = expert(small_scene().cloud.points), small_scene()
    alpha = render_expert(one, scene.cameras[1], 0.5).alpha.detach()
    weights = torch.rand(alpha.shape, generator=torch.Generator().manual_seed(0))
    for given_weights, expected in ((None, alpha.sum()), (weights, (alpha * weights).sum())):
        own = shares(one.at(0.5), scene.cameras[1], given_weights, options=one.options)
        assert not own.requires_grad and own.min() >= 0
        torch.testing.assert_close(own.sum(), expected, rtol=1e-4, atol=1e-3)


def test_who_is_out_of_every_picture_colours_nothing():
    far = middle() + torch.tensor([[0.0, 0, 0], [500.0, 0, 0]])
    seen, unseen = coloured(expert(far), views()).tolist()
    assert seen > 1 and unseen == 0


def test_brief_ones_are_judged_by_their_own_time():
    points = middle() + torch.tensor([[0.1, 0, 0], [-0.1, 0, 0], [0.0, 0.1, 0]])
    times, spans = torch.tensor([torch.nan, 0.25, 5.0]), torch.tensor([1.0, 0.25, 0.1])
    scene = small_scene(16)
    moments = [(scene.cameras[c], scene.time(f), c) for c in scene.train for f in range(scene.n_frames)]
    always, brief, never = coloured(expert(points, times, spans), moments).tolist()
    assert 0.6 * always < brief < 1.6 * always and never == float("inf")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**16), st.integers(-6, 12), st.floats(0, 0.99))
def test_as_many_go_as_growth_lacks_places_and_can_use(seed: int, room: int, share: float):
    generator = torch.Generator().manual_seed(seed)
    colours, score = torch.rand(20, generator=generator), torch.rand(20, generator=generator)
    colours[:3] = torch.inf
    gone = giving_way(colours, score, 0.5, room, share)
    hot = int((score > 0.5).sum())
    wanted = max(0, min(hot - room, int(share * 20), 17))  # three colour too much to go
    assert int(gone.sum()) == (wanted if wanted + room > 0 else 0) and not gone[:3].any()
    assert not gone.any() or colours[gone].max() <= colours[~gone].min()


def config(**more) -> FitConfig:
    crowded = DensifyRule(max_gaussians=len(small_scene().cloud), grad_threshold=0.0)
    return FitConfig(**({"steps": 80, "densify_every": 4, "densify": crowded, "sweep": None, "surface": None} | more))


@pytest.fixture
def changes(monkeypatch):
    """What happens while an expert trains: who gives way, and how many are there before and after growth."""
    seen = []

    def asked(colours, score, *rest):
        gone = giving_way(colours, score, *rest)
        seen.append(("gone", score, gone))
        return gone

    def grown(params, now, score, *rest, **more):
        survivors, spawned, lineage = grow(params, now, score, *rest, **more)
        seen.append(("grown", score, count(spawned)))
        return survivors, spawned, lineage

    monkeypatch.setattr("moegs.train.fit.giving_way", asked)
    monkeypatch.setattr("moegs.gaussians.densify.grow", grown)
    return seen


def test_others_grow_in_the_places_of_those_that_give_way(changes):
    prior, scene = get("polynomial").for_clip(FRAMES), small_scene()
    fit_expert(scene, prior, config(), progress=False)
    pairs = [(a, b) for a, b in pairwise(changes) if a[0] == "gone"]
    assert len(pairs) >= 2
    for (_, score, gone), (kind, later, spawned) in pairs:
        assert kind == "grown" and 0 < int(gone.sum()) <= 0.1 * len(gone)
        assert torch.equal(later, score[~gone]) and spawned > 0  # gradients follow their Gaussians
    changes.clear()
    fit_expert(scene, prior, config(idle=0.0), progress=False)
    assert all(kind == "grown" and spawned == 0 for kind, _, spawned in changes)  # a full expert without it


def test_comes_at_its_intervals_once_growth_has_found_its_places(monkeypatch):
    steps, views = [], []

    def looked(expert, pairs):
        views.append([c for _, _, c in pairs])
        return torch.full((len(expert),), torch.inf)

    def stepped(self, progress, step, *rest):
        steps.append((step + 1, len(views)))
        take_step(self, progress, step, *rest)

    take_step = ParamsAdam.step
    monkeypatch.setattr("moegs.train.fit.coloured", looked)
    monkeypatch.setattr(ParamsAdam, "step", stepped)
    fit_expert(small_scene(), get("polynomial").for_clip(FRAMES), config(steps=200, densify_every=2), progress=False)
    due = [before for (before, n), (_, after) in pairwise(steps) if after > n]
    assert due == [30, 40, 50, 60, 70]  # every 5 % from 15 % of the run until growth ends
    assert all(len(v) == 32 and set(v) == set(small_scene().train) for v in views)


def test_nobody_goes_where_there_are_too_many_already():
    """What is continued with more Gaussians than it may have keeps them."""
    few = DensifyRule(max_gaussians=len(small_scene().cloud) // 2, grad_threshold=0.0)
    prior, scene = get("polynomial").for_clip(FRAMES), small_scene()
    begun = {"start": prior.init(scene.cloud, torch.Generator().manual_seed(0)), "progress": False}
    ends = [fit_expert(scene, prior, config(densify=few, idle=i), **begun) for i in (0.1, 0.0)]
    assert len(ends[0]) == len(ends[1]) > len(scene.cloud) // 2


def test_goes_on_from_a_checkpoint_as_it_would_have(tmp_path):
    prior, scene = get("polynomial").for_clip(FRAMES), small_scene()
    whole = fit_expert(scene, prior, config(), progress=False)

    class StoppedError(Exception):
        """Stands for a crash."""

    def stopping(*args):
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moegs.train.fit.giving_way", stopping)
        with pytest.raises(StoppedError):
            fit_expert(scene, prior, config(checkpoint_every=3), out=tmp_path, progress=False)
    resumed = fit_expert(scene, prior, config(checkpoint_every=3), out=tmp_path, resume=True, progress=False)
    assert all(torch.equal(whole.params[k], resumed.params[k]) for k in whole.params)


@pytest.mark.parametrize("wrong", [{"idle": 1.0}, {"idle": -0.1}, {"idle_every": 0.0}])
def test_says_which_fractions_have_no_meaning(wrong):
    with pytest.raises(ConfigError, match="idle"):
        FitConfig(**wrong)
