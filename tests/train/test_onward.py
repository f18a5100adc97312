"""Models that learn on."""

from __future__ import annotations

import pytest
import torch

from moegs.errors import ConfigError
from moegs.route import Mixture, VolumePixelRouter, fuse
from moegs.train import evaluate, expert_renderer, sample_views, train_on
from tests.distill.test_distill import blobs
from tests.train.scenes import small_scene


def test_a_fused_model_gets_better_and_stays_as_large():
    scene, experts = small_scene(), {"a": blobs(0), "b": blobs(1)}
    mixture = Mixture(experts, VolumePixelRouter([len(e) for e in experts.values()]))
    fused = fuse(mixture, sample_views(scene, 4))
    before = {k: v.clone() for k, v in fused.params.items()}
    learnt = train_on(scene, fused, 30, progress=False)
    quality = [evaluate(expert_renderer(e), scene, scene.train, progress=False).mean.psnr for e in (fused, learnt)]
    assert quality[1] > quality[0] + 1 and len(learnt) == len(fused)
    assert all(torch.equal(v, before[k]) for k, v in fused.params.items())
    assert learnt.meta["fused"] == ["a", "b"] and learnt.meta["steps"] == 30 and learnt.options == fused.options
    assert train_on(scene, learnt, 5, progress=False).meta["steps"] == 35


def test_no_steps_change_nothing_and_fewer_mean_nothing():
    expert = blobs(0)
    assert train_on(small_scene(), expert, 0) is expert
    with pytest.raises(ConfigError, match="0 or more"):
        train_on(small_scene(), expert, -1)
