"""Unit directions through all pixels of a camera in one pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render import native


def usable(*given: Tensor) -> bool:
    """Whether the kernel covers a camera's matrices: built, float32, on the CPU, nothing to differentiate or transform."""
    return native.available() and all(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        for x in given
    )


def ray_directions(x: Float[Tensor, "w"], y: Float[Tensor, "h"], axes: Float[Tensor, "3 3"]) -> Float[Tensor, "h w 3"]:
    """``x right + y down + forward`` over its length for axes (right, down, forward), orthonormal rows."""
    out = x.new_empty(len(y), len(x), 3)
    x, y, axes = (value.detach().contiguous() for value in (x, y, axes))
    native.library().ray_directions(x, y, axes, out, native.threads())
    return out
