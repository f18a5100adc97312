"""Scores on held-out cameras."""

from __future__ import annotations

import json

import pytest

from moegs import progress as bars
from moegs.deform import get
from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.route import Mixture, VolumePixelRouter
from moegs.train import evaluate, sparse_error, yardsticks
from moegs.train.select import Candidate
from tests.train.scenes import small_scene


def photograph(camera, t):
    scene = small_scene()
    index = next(i for i, c in enumerate(scene.cameras) if c is camera)
    return scene.image(index, round(t * scene.n_frames))


def test_the_photographs_themselves_are_infinitely_good():
    found = evaluate(photograph, small_scene(), timed=1)
    assert found.mean.psnr == float("inf") and len(found.frames) == small_scene().n_frames
    row = Candidate(("a", "b"), found.mean.psnr, found.mean.psnr, 1.0, found.mean.psnr, True).to_json()
    assert json.loads(json.dumps(row, allow_nan=False))["psnr"] is None


@pytest.mark.parametrize(("options", "says"), [({"cameras": ()}, "at least one camera"), ({"every": 0}, "at least 1")])
def test_nothing_to_score_is_an_error(options, says):
    with pytest.raises(ConfigError, match=says):
        evaluate(photograph, small_scene(), **options)


@pytest.mark.parametrize("progress", [False, True])
def test_whoever_waits_longer_than_two_seconds_sees_a_bar_on_stderr(progress, monkeypatch, capsys):
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as the bar can tell
    evaluate(photograph, small_scene(), timed=1, progress=progress)
    out, error = capsys.readouterr()
    assert out == "" and ("evaluating" in error) == progress


def test_yardsticks_need_a_camera():
    g = Expert(get("polynomial").for_clip(4), get("polynomial").for_clip(4).init(small_scene().cloud))
    mixture = Mixture({"a": g, "b": g}, VolumePixelRouter([len(g)] * 2))
    with pytest.raises(ConfigError, match="at least one camera"):
        yardsticks(mixture, small_scene(), ())
    with pytest.raises(ConfigError, match="at least one camera"):
        sparse_error(mixture, small_scene(), 0.1, ())
