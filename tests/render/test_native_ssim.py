"""The native SSIM + L1 kernel against its torch twin in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.metrics import ssim_inria, ssim_loss
from moegs.render import native
from moegs.render.native.ssim import photometric, usable

pytestmark = pytest.mark.skipif(not native.available(), reason="the native module is not built")

SIZES = [(1, 1, 3), (1, 40, 3), (40, 1, 3), (3, 5, 3), (4, 16, 1), (17, 31, 4), (39, 64, 3)]


def pair(h: int, w: int, c: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(h, w, c, generator=generator)
    return image, (image + 0.2 * torch.randn(h, w, c, generator=generator)).clamp(0, 1)


def value_and_gradient(loss, image: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = image.detach().requires_grad_()
    value = loss(leaf, target)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def twin(image: torch.Tensor, target: torch.Tensor, l1: float = 0.8, ssim: float = 0.2) -> torch.Tensor:
    return l1 * (image - target).abs().mean() + ssim * (1 - ssim_inria(image, target))


def assert_agrees(image: torch.Tensor, target: torch.Tensor) -> None:
    value, gradient = value_and_gradient(lambda a, b: photometric(a, b, 0.8, 0.2), image, target)
    expected, slope = value_and_gradient(twin, image.double(), target.double())
    torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, atol=1e-5 * float(slope.abs().max()) + 1e-12, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient_on_every_instruction_set(isa: str, size: tuple[int, int, int]) -> None:
    assert_agrees(*pair(*size))


@settings(deadline=None, max_examples=25)
@given(h=st.integers(1, 50), w=st.integers(1, 50), c=st.integers(1, 5), seed=st.integers(0, 99))
def test_any_size(h: int, w: int, c: int, seed: int) -> None:
    assert_agrees(*pair(h, w, c, seed))


def test_equal_images_and_constant_images() -> None:
    image, _ = pair(20, 20, 3)
    value, gradient = value_and_gradient(lambda a, b: photometric(a, b, 0.8, 0.2), image, image)
    assert float(value) == pytest.approx(0.0, abs=1e-6) and float(gradient.abs().max()) < 1e-8
    assert_agrees(torch.zeros(9, 9, 3), torch.ones(9, 9, 3))


def test_non_contiguous_views() -> None:
    image, target = pair(24, 30, 3)
    strided = image.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(photometric(strided, target, 0.5, 0.5), photometric(image, target, 0.5, 0.5))
    assert_agrees(image[::2, ::3], target[::2, ::3])


def test_same_bits_for_any_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    image, target = pair(75, 43, 3)

    def run(threads: int) -> tuple[torch.Tensor, torch.Tensor]:
        monkeypatch.setenv("MOEGS_NUM_THREADS", str(threads))
        return value_and_gradient(lambda a, b: photometric(a, b, 0.8, 0.2), image, target)

    alone = run(1)
    for threads in (2, 3, 8):
        again = run(threads)
        assert torch.equal(again[0], alone[0]) and torch.equal(again[1], alone[1])


def test_a_nan_reaches_the_value_and_stays_near_in_the_gradient() -> None:
    image, target = pair(40, 40, 3)
    image[5, 5, 1] = math.nan
    value, gradient = value_and_gradient(lambda a, b: photometric(a, b, 0.8, 0.2), image, target)
    assert math.isnan(float(value)) and math.isnan(float(gradient[5, 5, 1]))
    assert gradient[16:].isfinite().all() and gradient[:, 16:].isfinite().all()


def test_upstream_gradient_scales() -> None:
    image, target = pair(12, 12, 3)
    _, once = value_and_gradient(ssim_loss, image, target)
    _, tripled = value_and_gradient(lambda a, b: 3 * ssim_loss(a, b), image, target)
    torch.testing.assert_close(tripled, 3 * once)


def test_what_the_kernel_leaves_to_torch() -> None:
    image, target = pair(12, 12, 3)
    assert usable(image, target) and not usable(image.double(), target.double())
    assert not usable(image, target.clone().requires_grad_()) and not usable(image[:0], target[:0])
    target.requires_grad_()
    (slope,) = torch.autograd.grad(ssim_loss(image, target), target)
    assert float(slope.abs().max()) > 0
    double = ssim_loss(image.double(), target.detach().double())
    assert double.dtype == torch.float64


def test_shapes_are_checked_in_the_library() -> None:
    image, target = pair(6, 6, 3)
    with pytest.raises(ValueError, match="one shape"):
        native.library().photometric(image, target[:5].contiguous(), None, 1.0, 1.0, 1)
