"""Scores on held-out cameras."""

from __future__ import annotations

import json

import pytest

from moegs.errors import ConfigError
from moegs.train import evaluate
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
