"""SSIM in each convention against an independent formulation or the library it is named after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import structural_similarity

from moegs.errors import ConfigError, ShapeError
from moegs.metrics import dssim, ssim_inria, ssim_loss, ssim_skimage


def images(h: int, w: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth-ish random pair in [0, 1] that differs a little."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(h, w, 3, generator=generator, dtype=dtype)
    return image, (image + 0.2 * torch.randn(h, w, 3, generator=generator, dtype=dtype)).clamp(0, 1)


def dense_window_ssim(image: torch.Tensor, target: torch.Tensor) -> float:
    """The INRIA formula written again: a full 2D window, grouped convolution, textbook algebra, float64."""
    axis = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
    window = torch.from_numpy(np.outer(axis, axis) / axis.sum() ** 2).expand(3, 1, 11, 11)

    def local(v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(v[None], window, padding=5, groups=3)[0]

    x, y = image.double().movedim(-1, 0), target.double().movedim(-1, 0)
    mx, my = local(x), local(y)
    vx, vy, vxy = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    value = ((2 * mx * my + 1e-4) * (2 * vxy + 9e-4)) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return float(value.mean())


@settings(deadline=None, max_examples=15)
@given(h=st.integers(1, 40), w=st.integers(1, 40), seed=st.integers(0, 99))
def test_inria_equals_the_dense_window_formula(h: int, w: int, seed: int) -> None:
    image, target = images(h, w, seed)
    assert float(ssim_inria(image, target)) == pytest.approx(dense_window_ssim(image, target), abs=1e-4)


def test_inria_interior_equals_skimage_with_a_gaussian_window() -> None:
    image, target = images(60, 50)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, full = structural_similarity(image.numpy(), target.numpy(), channel_axis=2, full=True, **options)
    from moegs.metrics.ssim import _similarity

    inner = _similarity(image, target)[:, 5:-5, 5:-5].movedim(0, -1).numpy()
    np.testing.assert_allclose(inner, full[5:-5, 5:-5], atol=1e-4)


def test_inria_gradient() -> None:
    image, target = images(5, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(ssim_inria, (image.requires_grad_(), target.requires_grad_()))


@pytest.mark.parametrize("data_range", [1, 2])
def test_skimage_equals_the_formula_with_a_uniform_window(data_range: int) -> None:
    image, target = images(31, 45)
    x, y = image.double().numpy(), target.double().numpy()

    def local(v: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(v, size=(7, 7, 1))[3:-3, 3:-3]

    unbias = 49 / 48
    vx, vy = (unbias * (local(v * v) - local(v) ** 2) for v in (x, y))
    vxy = unbias * (local(x * y) - local(x) * local(y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * local(x) * local(y) + c1) / (local(x) ** 2 + local(y) ** 2 + c1)
    expected = (luminance * (2 * vxy + c2) / (vx + vy + c2)).mean()
    assert ssim_skimage(image, target, data_range=data_range) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("data_range", [1, 2])
def test_skimage_equals_the_library(data_range: int) -> None:
    image, target = images(20, 33)
    library = structural_similarity(image.numpy(), target.numpy(), channel_axis=2, data_range=data_range)
    assert ssim_skimage(image, target, data_range) == pytest.approx(float(library), abs=1e-4)


def test_conventions_differ() -> None:
    image, target = images(40, 40)
    values = {float(ssim_inria(image, target)), *(ssim_skimage(image, target, r) for r in (1, 2))}
    assert max(values) - min(values) > 0.01 and len(values) == 3


def test_dssim_of_equal_and_opposite() -> None:
    assert dssim(1.0) == 0.0 and dssim(-1.0) == 1.0


def test_loss_is_one_minus_similarity() -> None:
    image, target = images(17, 13)
    torch.testing.assert_close(ssim_loss(image, target), 1 - ssim_inria(image, target), atol=1e-5, rtol=1e-5)
    assert float(ssim_loss(image, image)) == pytest.approx(0.0, abs=1e-6)


def test_bad_arguments_are_named() -> None:
    image, target = images(8, 8)
    with pytest.raises(ShapeError, match="target"):
        ssim_inria(image, target[:4])
    with pytest.raises(ShapeError, match="dtype"):
        ssim_inria(image, target.double())
    with pytest.raises(ShapeError, match=r"\[h, w, c\]"):
        ssim_loss(image[None], target[None])
    with pytest.raises(ConfigError, match="data_range"):
        ssim_skimage(image, target, data_range=255)
    with pytest.raises(ShapeError, match="7x7"):
        ssim_skimage(image[:5], target[:5], data_range=1)
