"""Choosing experts on cameras of the training rig."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from moegs.errors import ConfigError
from moegs.train.select import SelectConfig, _ranked, _Trial, rank_subsets, validation_cameras
from tests.distill.test_distill import blobs
from tests.train.scenes import small_scene


def test_ranks_by_gain_per_millisecond():
    trials = [_Trial(("a",), 30.0, 10.0), _Trial(("b",), 29.0, 4.0), _Trial(("a", "b"), 31.0, 14.0),
              _Trial(("a", "c"), 31.5, 40.0), _Trial(("b", "c"), 30.5, 15.0)]  # fmt: skip
    ranked = _ranked(trials)
    assert [c.experts for c in ranked] == [("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",)]
    assert ranked[0].gain == pytest.approx(1.0) and ranked[0].gain_per_ms == pytest.approx(1 / 14)
    assert {c.experts for c in ranked if c.efficient} == {("a",), ("b",), ("a", "b"), ("a", "c")}


def test_losing_slowly_is_no_merit():
    alone = [_Trial(("a",), 30.0, 10.0), _Trial(("b",), 29.0, 2.0)]
    ranked = _ranked([*alone, _Trial(("a", "b"), 29.9, 20.0), _Trial(("a", "c"), 29.9, 2.5), _Trial(("b", "c"), 30.1, 40.0)])
    assert [c.experts for c in ranked] == [("b", "c"), ("a",), ("a", "c"), ("a", "b"), ("b",)]


def test_validation_cameras_are_spread_and_never_held_out():
    scene = SimpleNamespace(train=tuple(range(1, 11)), test=(0,))
    assert validation_cameras(scene, 2) == (3, 8)
    assert len(set(validation_cameras(scene, 9))) == 9
    with pytest.raises(ConfigError, match="1 to 9"):
        validation_cameras(scene, 10)


def test_tries_every_subset_without_the_held_out_camera():
    scene, looked = small_scene(), []
    image = scene.frames.image
    frames = SimpleNamespace(image=lambda c, f: (looked.append(c), image(c, f))[1])
    experts = {"a": blobs(0), "b": blobs(1, "interpolation"), "c": blobs(2)}
    config = SelectConfig(validation=1, steps=2, timed=1)
    ranked = rank_subsets(replace(scene, frames=frames), experts, config, progress=False)
    assert len(ranked) == 3 + 3 + 1 and all(c.ms > 0 for c in ranked)
    assert set(looked) == set(scene.train)
    best = max(c.psnr for c in ranked if len(c.experts) == 1)
    assert all(c.gain == pytest.approx(c.psnr - best) for c in ranked)


def test_refusals():
    experts = {"a": blobs(0)}
    with pytest.raises(ConfigError, match="camera 0 is no training camera"):
        rank_subsets(small_scene(), experts, cameras=(0,), progress=False)
    with pytest.raises(ConfigError, match="at least 2 experts"):
        rank_subsets(small_scene(), experts, SelectConfig(validation=1), progress=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"sizes": ()}, "sizes"), ({"sizes": (1, 2)}, "sizes"), ({"steps": 0}, "steps"), ({"every": 0}, "every")],
)
def test_numbers_without_meaning(wrong, said):
    with pytest.raises(ConfigError, match=said):
        SelectConfig(**wrong)


def test_some_cameras_are_left_to_learn_from(monkeypatch):
    scene = small_scene()
    monkeypatch.setattr("moegs.train.select.evaluate", lambda *_, **__: pytest.fail("scored before it was checked"))
    with pytest.raises(ConfigError, match="none is left to learn from"):
        rank_subsets(scene, {"a": blobs(0), "b": blobs(1)}, cameras=scene.train, progress=False)
