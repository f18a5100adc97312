"""A small network at every pixel of every expert, with gradients, in one pass over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render import native


def usable(own: Sequence[Tensor], common: Sequence[Tensor], layers: Sequence[Tensor]) -> bool:
    """Whether the kernel covers these maps and layers.

    That is what :func:`moegs.render.native.takes`, not empty, and without a gradient to what all experts see.
    """
    if not own or any(torch.is_grad_enabled() and m.requires_grad for m in common):
        return False
    return native.takes(*own, *common, *layers) and all(m.numel() > 0 for m in own)


def pixel_network(
    own: Float[Tensor, "k h w c"],
    common: Float[Tensor, "h w q"] | None,
    layers: Sequence[Float[Tensor, "m _ _"]],
    bias: Float[Tensor, "m hidden"],
    *,
    residual: bool = False,
) -> Float[Tensor, "k h w"]:
    """Dense layers with relus between them, for k experts.

    Args:
        own: channels that each expert sees; with ``residual`` the first of them is added to the output instead.
        common: channels that all experts see.
        layers: weights of one network (m = 1) or of one an expert; the first layer takes ``own``, then ``common``, and the
            last has one output.
        bias: of the first layer, the only one that has any.
        residual: whether ``own`` begins with a channel for the output.
    """
    widths = [layers[0].shape[2], *(w.shape[1] for w in layers)]
    networks = torch.cat([layers[0].flatten(1), bias, *(w.flatten(1) for w in layers[1:])], dim=1)
    return _PixelNetwork.apply(own, common, networks, widths, residual)


class _PixelNetwork(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, common: Tensor | None, networks: Tensor, widths: list[int], residual: bool
    ) -> Tensor:
        k, h, w, c = own.shape
        own, networks = own.detach().contiguous().view(k, h * w, c), networks.detach().contiguous()
        common = None if common is None else common.detach().contiguous().flatten(0, 1)
        logits = own.new_empty(k, h * w)
        native.library().network_forward(own, common, networks, widths, residual, logits, native.threads())
        ctx.save_for_backward(own, common, networks)
        ctx.settings = widths, residual
        return logits.view(k, h, w)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        own, common, networks = ctx.saved_tensors
        to_own = torch.empty_like(own) if ctx.needs_input_grad[0] else None
        to_networks = torch.empty_like(networks) if ctx.needs_input_grad[2] else None
        arrived = upstream.contiguous().view(len(own), -1)
        native.library().network_backward(
            own, common, networks, *ctx.settings, arrived, to_own, to_networks, native.threads()
        )
        shaped = None if to_own is None else to_own.view(*upstream.shape, -1)
        return shaped, None, to_networks, None, None
