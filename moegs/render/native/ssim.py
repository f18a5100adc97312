"""SSIM and L1 with their gradient in one pass over the image, on the CPU in float32."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render import native


def usable(image: Tensor, target: Tensor) -> bool:
    """Whether the kernel covers these images: see :func:`moegs.render.native.takes`; not empty, no gradient to the target."""
    return native.takes(image, target) and image.numel() > 0 and not (target.requires_grad and torch.is_grad_enabled())


def photometric(
    image: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"], l1_weight: float, ssim_weight: float
) -> Float[Tensor, ""]:
    """``l1_weight * mean|image - target| + ssim_weight * (1 - ssim_inria(image, target))``.

    The reference twin is :func:`moegs.metrics.ssim_inria`. The gradient is computed together with the value and scaled
    on the way back, so the value costs little less than both.
    """
    return _Photometric.apply(image, target, l1_weight, ssim_weight)


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, l1_weight: float, ssim_weight: float) -> Tensor:
        image, target = image.detach().contiguous(), target.detach().contiguous()
        gradient = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        weights = {"l1_weight": l1_weight, "ssim_weight": ssim_weight}
        l1, ssim = native.library().photometric(image, target, gradient, **weights, threads=native.threads())
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return image.new_tensor(l1_weight * l1 + ssim_weight * (1.0 - ssim))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None
