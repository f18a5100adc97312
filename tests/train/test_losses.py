"""The photometric loss."""

from __future__ import annotations

import pytest
import torch

from moegs.errors import ConfigError, ShapeError
from moegs.metrics import ssim_inria
from moegs.train.losses import photometric_loss
from tests.metrics.test_ssim import images


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_the_weighted_sum(weight: float, dtype: torch.dtype) -> None:
    image, target = images(14, 11, dtype=dtype)
    image.requires_grad_()
    loss = photometric_loss(image, target, weight)
    (gradient,) = torch.autograd.grad(loss, image)
    twin = image.detach().double().requires_grad_()
    l1, ssim = (twin - target.double()).abs().mean(), ssim_inria(twin, target.double())
    reference = (1 - weight) * l1 + weight * (1 - ssim)
    (expected,) = torch.autograd.grad(reference, twin)
    torch.testing.assert_close(loss.double(), reference, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=1e-3)


def test_equal_images_cost_nothing() -> None:
    image, _ = images(9, 9)
    assert float(photometric_loss(image, image)) == pytest.approx(0.0, abs=1e-6)


def test_bad_arguments_are_named() -> None:
    image, target = images(9, 9)
    with pytest.raises(ConfigError, match="lambda_dssim"):
        photometric_loss(image, target, 1.5)
    with pytest.raises(ShapeError, match="photometric_loss"):
        photometric_loss(image, target[1:])
