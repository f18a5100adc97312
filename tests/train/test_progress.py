"""Bars go to stderr, where they do not mix with what a command prints."""

from __future__ import annotations

import pytest

from moegs import progress as bars
from moegs.distill import cache_teacher
from moegs.prune import opacity, pruning_curve
from moegs.train.progress import training_bar
from moegs.train.select import SelectConfig, rank_subsets
from moegs.train.views import sample_views
from tests.distill.test_distill import blobs, make_mixture
from tests.train.scenes import small_scene


@pytest.fixture
def shown(capsys, monkeypatch):
    """What has been printed to stderr, as on a terminal and to somebody without patience; stdout stays empty."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(bars, "PATIENCE", 0.0)

    def read() -> str:
        out, error = capsys.readouterr()
        assert out == ""
        return error

    return read


@pytest.mark.parametrize("enabled", [True, False])
def test_training(shown, enabled):
    with training_bar("polynomial", 2, enabled=enabled) as update:
        update(2, loss=0.25, gaussians=12345)
    said = shown()
    assert ("polynomial" in said) == ("loss 0.25" in said) == ("gaussians 12,345" in said) == enabled


@pytest.mark.parametrize("enabled", [True, False])
def test_a_pruning_curve_with_training_in_it(shown, enabled):
    scene = small_scene()

    def refit(mixture):
        with training_bar("learning on", 1, enabled=enabled) as update:
            update(1)
        return mixture

    views = sample_views(scene, 1)
    pruning_curve(make_mixture(), scene, views, (0.5,), criteria={"one": opacity}, refit=refit, progress=enabled)
    said = shown()
    assert ("curve" in said) == ("learning on" in said) == enabled


@pytest.mark.parametrize("enabled", [True, False])
def test_a_teacher(shown, tmp_path, enabled):
    cache_teacher(make_mixture(), small_scene(), tmp_path, progress=enabled)
    assert ("teacher frames" in shown()) == enabled
    cache_teacher(make_mixture(), small_scene(), tmp_path)
    assert shown() == ""  # all is there


@pytest.mark.parametrize("enabled", [True, False])
def test_subsets(shown, enabled):
    config = SelectConfig(sizes=(2,), validation=1, steps=1, timed=1)
    rank_subsets(small_scene(), {"a": blobs(0), "b": blobs(1)}, config, progress=enabled)
    assert ("trying subsets" in shown()) == enabled
