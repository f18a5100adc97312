"""Depth scores by hand."""

from __future__ import annotations

import math

import pytest
import torch

from moegs.errors import ConfigError, ShapeError
from moegs.metrics.depth import depth_scores, summarise_depth


def test_by_hand():
    truth = torch.tensor([[1.0, 2.0, 4.0, 0.0], [2.0, 2.0, float("nan"), 2.0]])
    alpha = torch.tensor([[1.0, 0.8, 0.9, 1.0], [0.4, 1.0, 1.0, 1.0]])
    depth = torch.tensor([[1.1, 2.0, 3.6, 1.0], [2.0, 3.0, 1.0, 2.0]]) * alpha
    scores = depth_scores(depth, alpha, truth)
    assert scores.abs_rel == pytest.approx((0.1 + 0 + 0.1 + 0.5 + 0) / 5, rel=1e-5)
    assert scores.rmse == pytest.approx(((0.1**2 + 0 + 0.4**2 + 1) / 5) ** 0.5, rel=1e-5)
    assert scores.delta1 == pytest.approx(4 / 5) and scores.covered == pytest.approx(5 / 6)
    same = summarise_depth([scores, scores])
    assert same.to_json() == pytest.approx(scores.to_json())


def test_what_is_not_covered_has_no_error():
    one = torch.ones(2, 2)
    bare, whole = depth_scores(one, one * 0.2, one), depth_scores(1.5 * one, one, one)
    assert bare.covered == 0 and math.isnan(bare.abs_rel)
    both = summarise_depth([bare, whole])
    assert both.abs_rel == pytest.approx(0.5) and both.covered == pytest.approx(0.5)


def test_refusals():
    one = torch.ones(2, 2)
    with pytest.raises(ShapeError, match="differ"):
        depth_scores(one, one, torch.ones(2, 3))
    with pytest.raises(ConfigError, match="no finite positive pixel"):
        depth_scores(one, one, one * 0)
    with pytest.raises(ConfigError, match="at least one frame"):
        summarise_depth([])
