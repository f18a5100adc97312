"""Unit directions through all pixels of a camera in one pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render import native


def usable(*given: Tensor) -> bool:
    """Whether the kernel covers a camera's matrices: see :func:`moegs.render.native.takes`, and no gradient to them."""
    return native.takes(*given) and not (torch.is_grad_enabled() and any(x.requires_grad for x in given))


def ray_directions(x: Float[Tensor, "w"], y: Float[Tensor, "h"], axes: Float[Tensor, "3 3"]) -> Float[Tensor, "h w 3"]:
    """``x right + y down + forward`` over its length for axes (right, down, forward), orthonormal rows."""
    out = x.new_empty(len(y), len(x), 3)
    x, y, axes = (value.detach().contiguous() for value in (x, y, axes))
    native.library().ray_directions(x, y, axes, out, native.threads())
    return out
