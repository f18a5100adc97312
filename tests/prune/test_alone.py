"""Pruning one model by itself."""

from __future__ import annotations

import pytest
import torch

from moegs.errors import ConfigError
from moegs.prune import prune_expert
from moegs.train import evaluate, expert_renderer, sample_views
from tests.distill.test_distill import blobs
from tests.train.scenes import small_scene


def test_what_is_left_learns_on():
    scene, expert = small_scene(), blobs(0)
    before = {k: v.clone() for k, v in expert.params.items()}
    views = sample_views(scene, 2)
    small = {s: prune_expert(scene, expert, views, ratio=0.5, steps=s, rounds=2, progress=False) for s in (0, 30)}
    assert len(small[30]) == len(small[0]) == len(expert) - int(0.5 * len(expert))
    quality = [evaluate(expert_renderer(e), scene, scene.train, progress=False).mean.psnr for e in small.values()]
    assert quality[1] > quality[0] + 1
    assert small[30].meta["pruned"]["dropped"] == int(0.5 * len(expert)) and small[30].options == expert.options
    assert all(torch.equal(v, before[k]) for k, v in expert.params.items())
    with pytest.raises(ConfigError, match="expected one of blend"):
        prune_expert(scene, expert, views, ratio=0.5, steps=0, by="luck")
