"""Per-frame scores, clip means and PSNR."""

from __future__ import annotations

import json
import math

import pytest
import torch

from moegs.errors import ConfigError, ShapeError
from moegs.metrics import NOT_COMPUTED, FrameScores, psnr, score, ssim_inria, summarise
from tests.metrics.test_ssim import images


def test_psnr_of_a_known_error() -> None:
    image = torch.zeros(3, 5, 3)
    assert psnr(image, image + 0.5) == pytest.approx(6.0206, abs=1e-4)
    assert psnr(image, image) == math.inf


def test_psnr_is_of_the_image_not_the_mean_of_channels() -> None:
    image, target = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    target[..., 0], target[..., 1], target[..., 2] = 0.1, 0.2, 0.4
    assert psnr(image, target) == pytest.approx(-10 * math.log10((0.01 + 0.04 + 0.16) / 3), abs=1e-4)


def test_psnr_propagates_nan_and_refuses_other_shapes() -> None:
    image = torch.zeros(4, 4, 3)
    assert math.isnan(psnr(image + math.nan, image))
    with pytest.raises(ShapeError, match="psnr"):
        psnr(image, image[:, :2])


def test_score_clamps_the_render() -> None:
    image, target = images(12, 9)
    overshoot = torch.where(target >= 1, target + 1, target)
    assert score(overshoot, target.clamp(0, 1)).psnr == math.inf
    assert score(image, target).ssim_inria == pytest.approx(float(ssim_inria(image, target)))


def test_small_frames_have_no_skimage_score() -> None:
    scores = score(*images(5, 30))
    assert scores.ssim_skimage1 is None and scores.dssim2 is None
    assert scores.to_json()["ssim_skimage2"] == NOT_COMPUTED


def test_lpips_is_reported_as_not_computed_without_a_network() -> None:
    assert score(*images(8, 8)).to_json()["lpips"] == NOT_COMPUTED
    assert score(*images(8, 8), perceptual=lambda a, b: 0.25).lpips == 0.25


def test_summary_is_the_mean_over_frames() -> None:
    frames = [FrameScores(20.0, 0.5, 0.4, 0.6, 0.1), FrameScores(30.0, 0.7, 0.6, 0.8, None)]
    mean = summarise(frames)
    assert (mean.psnr, mean.ssim_inria, mean.lpips) == (25.0, pytest.approx(0.6), None)
    assert (mean.dssim1, mean.dssim2) == (pytest.approx(0.25), pytest.approx(0.15))
    with pytest.raises(ConfigError, match="at least one frame"):
        summarise([])


def test_json_has_no_infinities() -> None:
    image, _ = images(8, 8)
    assert json.loads(json.dumps(score(image, image).to_json(), allow_nan=False))["psnr"] is None
