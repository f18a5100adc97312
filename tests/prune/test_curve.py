"""The curve over ratios, and the short refit behind it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from moegs.errors import BackendError, ConfigError
from moegs.prune import (
    gated_contribution,
    megabytes,
    opacity,
    prune,
    prune_and_refit,
    prune_in_rounds,
    pruning_curve,
    refit,
    write_curve,
)
from moegs.train import RefineConfig, evaluate, mixture_renderer, refine
from moegs.train.views import sample_views
from tests.distill.test_distill import make_mixture
from tests.train.scenes import small_scene


def test_points_and_files(tmp_path):
    mixture, scene = make_mixture(), small_scene()
    n = sum(mixture.router.counts)
    views, scores = sample_views(scene, 2), {"one": opacity, "other": gated_contribution}
    points = pruning_curve(mixture, scene, views, (0.0, 0.5), criteria=scores, every=2, progress=False)
    assert [(p.criterion, p.ratio, p.gaussians) for p in points] == [
        ("one", 0.0, n), ("one", 0.5, n // 2), ("other", 0.0, n), ("other", 0.5, n // 2),
    ]  # fmt: skip
    assert points[0].psnr == points[2].psnr and points[1].psnr != points[3].psnr
    assert points[1].megabytes < 0.6 * points[0].megabytes
    write_curve(points, tmp_path, {"scene": "blobs"})
    saved = json.loads((tmp_path / "curve.json").read_text())
    assert saved["scene"] == "blobs" and saved["points"][1]["ratio"] == 0.5
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ratios", [(), (0.5, 1.0), (-0.1,)])
def test_ratios_without_meaning_are_refused(ratios):
    with pytest.raises(ConfigError, match="ratios: expected fractions"):
        pruning_curve(make_mixture(), small_scene(), [], ratios, progress=False)


def test_views_that_can_be_gone_through_only_once_are_refused():
    with pytest.raises(ConfigError, match="not an iterator"):
        pruning_curve(make_mixture(), small_scene(), iter(sample_views(small_scene(), 2)), progress=False)


def test_the_whole_mixture_learns_for_as_long_as_the_pruned_ones():
    mixture, scene, learnt = make_mixture(), small_scene(), []

    def refit_once(m):
        learnt.append(sum(m.router.counts))
        return refit(scene, m, 2, progress=False)

    views, scores = sample_views(scene, 2), {"one": opacity, "other": gated_contribution}
    points = pruning_curve(mixture, scene, views, (0.0, 0.5), criteria=scores, refit=refit_once, every=2, progress=False)
    n = sum(mixture.router.counts)
    assert learnt == [n, n // 2, n // 2]
    expected = evaluate(mixture_renderer(refit(scene, mixture, 2, progress=False)), scene, every=2, timed=1)
    assert points[0].psnr == points[2].psnr == expected.mean.psnr


def test_without_matplotlib_the_figures_are_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"moegs\[report\]"):
        write_curve([], tmp_path)
    assert (tmp_path / "curve.json").exists() and not (tmp_path / "curve.png").exists()


def halved():
    mixture = make_mixture()
    return prune(mixture, torch.rand(96, generator=torch.Generator().manual_seed(1)), ratio=0.5)[0]


def test_the_router_alone_is_refitted_from_where_it_stands():
    pruned = halved()
    refitted = refit(small_scene(), pruned, 1, router_only=True, progress=False)
    moved = (refitted.router.base - pruned.router.base).abs().max()
    assert 0 < moved < 0.5
    for name, expert in refitted.experts.items():
        assert all(torch.equal(expert.params[k], v) for k, v in pruned.experts[name].params.items())


def test_experts_and_router_are_refitted_together():
    pruned = halved()
    assert refit(small_scene(), pruned, 0) is pruned
    refitted = refit(small_scene(), pruned, 2, progress=False)
    assert not torch.equal(refitted.router.base, pruned.router.base)
    for name, expert in refitted.experts.items():
        assert len(expert) == len(pruned.experts[name]) and expert.meta["refine steps"] == 2
        assert not torch.equal(expert.at(0.5).means, pruned.experts[name].at(0.5).means)


def test_megabytes_counts_every_tensor():
    mixture = make_mixture()
    counted = sum(v.numel() for e in mixture.experts.values() for v in e.params.values())
    counted += sum(v.numel() for v in mixture.router.state_dict().values())
    assert megabytes(mixture) == pytest.approx(4 * counted / 1e6)
    alone = next(iter(mixture.experts.values()))
    assert megabytes(alone) == pytest.approx(4 * sum(v.numel() for v in alone.params.values()) / 1e6)


def test_views_are_sampled_evenly_and_again():
    views = sample_views(small_scene(), 6, seed=3)
    assert len(views) == 6 and [v.frame for v in views] == [v.frame for v in views]
    assert len(set(views.pairs)) == 6 and {c for c, _ in views.pairs} == {1, 2}
    assert len(sample_views(small_scene(), 100)) == 8
    assert {c for c, _ in sample_views(small_scene(), 3, cameras=(2,)).pairs} == {2}


def test_what_is_left_halfway_learns_before_it_is_ranked_again():
    mixture, scene = make_mixture(), small_scene()
    n, asked = sum(mixture.router.counts), []

    def score(m, views):
        asked.append((sum(m.router.counts), m.router.base.detach().clone()))
        return gated_contribution(m, views)

    how = {"ratio": 0.5, "rounds": 2, "progress": False, "seed": 3}
    views = sample_views(scene, 2)
    pruned, report = prune_and_refit(scene, mixture, score, views, steps=4, **how)
    assert [count for count, _ in asked] == [n, n - n // 4] and sum(report.after.values()) == n - n // 2
    half, _ = prune_in_rounds(mixture, gated_contribution, views, ratio=0.25, rounds=1)
    learned = refit(scene, half, 1, seed=4, progress=False)  # a quarter of the steps, other views first
    assert torch.equal(asked[1][1], learned.router.base) and not torch.equal(half.router.base, learned.router.base)
    rest, _ = prune(learned, gated_contribution(learned, views), keep=n - n // 2)
    expected = refit(scene, rest, 3, seed=3, progress=False)
    assert torch.equal(pruned.router.base, expected.router.base)
    assert report.before == {k: len(e) for k, e in mixture.experts.items()}


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_refit_goes_on_to_the_same_mixture(tmp_path, monkeypatch, after):
    """It is interrupted while it learns halfway, and while it learns afterwards; what was learnt is not learnt again."""
    mixture, scene, views = make_mixture(), small_scene(), sample_views(small_scene(), 2)
    monkeypatch.setattr(import_module("moegs.prune.refit"), "RefineConfig", partial(RefineConfig, checkpoint_every=1))
    how = {"ratio": 0.5, "rounds": 2, "steps": 8, "progress": False}
    whole, _ = prune_and_refit(scene, mixture, gated_contribution, views, **how)
    with pytest.raises(KeyboardInterrupt), counted_steps(monkeypatch, stop=after):
        prune_and_refit(scene, mixture, gated_contribution, views, out=tmp_path, **how)
    with counted_steps(monkeypatch) as taken:
        again, _ = prune_and_refit(scene, mixture, gated_contribution, views, out=tmp_path, resume=True, **how)
    assert len(taken) == 8 - after
    assert torch.equal(again.router.base, whole.router.base)
    for name, expert in whole.experts.items():
        assert all(torch.equal(expert.params[k], v) for k, v in again.experts[name].params.items())
    with pytest.raises(ConfigError, match="resume"):
        refit(scene, mixture, 2, resume=True, progress=False)


@contextmanager
def counted_steps(monkeypatch, stop: int | None = None) -> Iterator[list[int]]:
    """The steps of refinement while the block runs, which ends as with Ctrl-C after so many."""
    step, taken = refine._step, []

    def stepped(*args):
        if len(taken) == stop:
            raise KeyboardInterrupt
        taken.append(1)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(refine, "_step", stepped)
        yield taken


def test_a_run_begun_anew_takes_nothing_from_a_former_one(tmp_path, monkeypatch):
    mixture, scene, views = make_mixture(), small_scene(), sample_views(small_scene(), 2)
    monkeypatch.setattr(import_module("moegs.prune.refit"), "RefineConfig", partial(RefineConfig, checkpoint_every=1))
    how = {"ratio": 0.5, "rounds": 2, "steps": 8, "out": tmp_path, "progress": False}
    prune_and_refit(scene, mixture, gated_contribution, views, **how)
    with pytest.raises(KeyboardInterrupt), counted_steps(monkeypatch, stop=1):
        prune_and_refit(scene, mixture, gated_contribution, views, seed=5, **how)
    with counted_steps(monkeypatch) as taken:
        again, _ = prune_and_refit(scene, mixture, gated_contribution, views, seed=5, resume=True, **how)
    other, _ = prune_and_refit(scene, mixture, gated_contribution, views, seed=5, **how | {"out": None})
    assert len(taken) == 7 and torch.equal(again.router.base, other.router.base)


def test_it_learns_from_the_cameras_that_it_is_given():
    mixture, scene, looked = make_mixture(), small_scene(), []
    image = scene.frames.image
    seen = replace(scene, frames=SimpleNamespace(image=lambda c, f: (looked.append(c), image(c, f))[1]))
    for alone in (False, True):
        refit(seen, mixture, 3, cameras=(2,), router_only=alone, progress=False)
    assert looked.count(1) == 2  # the first picture of each camera tells the clip
    assert looked.count(2) == 2 + 6


def test_every_point_is_kept_as_soon_as_it_is_there():
    kept, scores = [], {"one": opacity, "other": gated_contribution}
    views = sample_views(small_scene(), 2)
    points = pruning_curve(
        make_mixture(), small_scene(), views, (0.0, 0.5), criteria=scores, every=4, progress=False,
        keep=lambda found: kept.append(list(found)),
    )  # fmt: skip
    assert kept == [points[: i + 1] for i in range(4)]


def test_without_steps_or_with_one_round_nothing_learns_halfway():
    mixture, scene, views = make_mixture(), small_scene(), sample_views(small_scene(), 2)
    still, _ = prune_and_refit(scene, mixture, opacity, views, ratio=0.5, steps=0, rounds=4, progress=False)
    alone, _ = prune_in_rounds(mixture, opacity, views, ratio=0.5, rounds=4)
    assert torch.equal(still.router.base, alone.router.base)
    once, _ = prune_and_refit(scene, mixture, opacity, views, ratio=0.5, steps=2, rounds=1, progress=False)
    after = refit(scene, prune_in_rounds(mixture, opacity, views, ratio=0.5, rounds=1)[0], 2, progress=False)
    assert torch.equal(once.router.base, after.router.base)
