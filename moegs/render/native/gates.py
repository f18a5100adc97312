"""Gates and the blend that they make, with gradients, in one pass over the pixels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render import native


def usable(images: Tensor, logits: Tensor) -> bool:
    """Whether the kernel covers these: see :func:`moegs.render.native.takes`, and not empty."""
    return native.takes(images, logits) and images.numel() > 0


def gated_blend(
    images: Float[Tensor, "k h w 3"], logits: Float[Tensor, "k h w"], temperature: float
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "k h w"]]:
    """``sum_k gates[k] * images[k]`` and ``gates = softmax_k(logits / temperature)``."""
    return _GatedBlend.apply(images, logits, temperature)


class _GatedBlend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        k, h, w, _ = images.shape
        images, logits = images.detach().contiguous().view(k, h * w, 3), logits.detach().contiguous().view(k, h * w)
        gates, color = logits.new_empty(k, h, w), images.new_empty(h, w, 3)
        flat = gates.view(k, h * w), color.view(h * w, 3)
        native.library().gates_forward(logits, images, temperature, *flat, native.threads())
        ctx.save_for_backward(images, gates)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        if not ctx.needs_input_grad[1]:
            ctx.mark_non_differentiable(gates)
        return color, gates

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_color: Tensor | None, to_gates: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        images, gates = ctx.saved_tensors
        k, h, w = gates.shape
        to_images = torch.empty_like(images) if ctx.needs_input_grad[0] and to_color is not None else None
        to_logits = torch.empty_like(gates).view(k, h * w) if ctx.needs_input_grad[1] else None
        color = None if to_color is None else to_color.contiguous().view(h * w, 3)
        own = None if to_gates is None else to_gates.contiguous().view(k, h * w)
        native.library().gates_backward(
            gates.view(k, h * w), images, ctx.temperature, color, own, to_logits, to_images, native.threads()
        )
        return _shaped(to_images, (k, h, w, 3)), _shaped(to_logits, (k, h, w)), None


def _shaped(gradient: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    return None if gradient is None else gradient.view(shape)
