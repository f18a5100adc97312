"""Making room: who colours little, and that only as many go as growth lacks places for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.deform import get
from moegs.errors import ConfigError
from moegs.expert import Expert, render_expert
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.densify import DensifyRule
from moegs.render import shares
from moegs.train import FitConfig, fit_expert
from moegs.train.idle import coloured, giving_way
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
    always, brief, never = coloured(expert(points, times, spans), views()).tolist()
    assert 0.2 * always < brief < 5 * always and never == float("inf")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**16), st.integers(-3, 12), st.floats(0, 0.99))
def test_as_many_go_as_growth_lacks_places(seed: int, room: int, share: float):
    generator = torch.Generator().manual_seed(seed)
    colours, score = torch.rand(20, generator=generator), torch.rand(20, generator=generator)
    colours[:3] = torch.inf
    gone = giving_way(colours, score, 0.5, room, share)
    lacking = int((score > 0.5).sum()) - max(room, 0)
    assert int(gone.sum()) == max(0, min(lacking, int(share * 20))) and not gone[:3].any()
    assert not gone.any() or colours[gone].max() <= colours[~gone].min()


def config(**more) -> FitConfig:
    crowded = DensifyRule(max_gaussians=len(small_scene().cloud), grad_threshold=0.0)
    return FitConfig(steps=80, densify_every=4, densify=crowded, idle_every=0.1, sweep=None, **more)


def test_a_full_expert_goes_on_growing(monkeypatch):
    """Without room, training without changes ends with the Gaussians that it began with."""
    removed = []
    monkeypatch.setattr("moegs.train.fit.giving_way", lambda *args: removed.append(giving_way(*args)) or removed[-1])
    prior, scene = get("polynomial").for_clip(FRAMES), small_scene()
    changed = fit_expert(scene, prior, config(), progress=False)
    assert removed and all(0 < int(r.sum()) <= 0.1 * len(r) for r in removed)
    assert len(changed) <= len(scene.cloud)
    count = len(removed)
    fit_expert(scene, prior, config(idle=0.0), progress=False)
    assert len(removed) == count


def test_goes_on_from_a_checkpoint_as_it_would_have(tmp_path):
    prior, scene = get("polynomial").for_clip(FRAMES), small_scene()
    whole = fit_expert(scene, prior, config(), progress=False)

    class Stop(Exception):
        pass

    def stopping(*args):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moegs.train.fit.giving_way", stopping)
        with pytest.raises(Stop):
            fit_expert(scene, prior, config(checkpoint_every=3), out=tmp_path, progress=False)
    resumed = fit_expert(scene, prior, config(checkpoint_every=3), out=tmp_path, resume=True, progress=False)
    assert all(torch.equal(whole.params[k], resumed.params[k]) for k in whole.params)


@pytest.mark.parametrize("wrong", [{"idle": 1.0}, {"idle": -0.1}, {"idle_every": 0.0}])
def test_says_which_fractions_have_no_meaning(wrong):
    with pytest.raises(ConfigError, match="idle"):
        FitConfig(**wrong)
