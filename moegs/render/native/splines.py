"""Poses of key-framed Gaussians between two key frames, on the CPU in float32, with gradients to all key frames."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render import native


class Place(NamedTuple):
    """Where between key frames: positions weigh four from ``first`` on, rotations go ``way`` between the middle two."""

    first: int
    weights: tuple[float, float, float, float]
    way: float


def usable(keyframes: Tensor, rotations: Tensor) -> bool:
    """Whether the kernel covers these key frames: see :func:`moegs.render.native.takes`, and as many of both."""
    return native.takes(keyframes, rotations) and keyframes.shape[:2] == rotations.shape[:2]


def pose(
    keyframes: Float[Tensor, "n k 3"], rotations: Float[Tensor, "n k 4"], place: Place
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]]:
    """Means and unit quaternions; the twin is ``pose_by_torch`` in :mod:`moegs.deform._splines`."""
    return _Pose.apply(keyframes, rotations, place)


class _Pose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyframes: Tensor, rotations: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        keyframes, rotations = keyframes.detach().contiguous(), rotations.detach().contiguous()
        means, quats = keyframes.new_empty(len(keyframes), 3), keyframes.new_empty(len(keyframes), 4)
        native.library().spline_forward(keyframes, rotations, *place, means, quats, native.threads())
        ctx.save_for_backward(keyframes, rotations)
        ctx.place = place
        ctx.set_materialize_grads(False)
        return means, quats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_means: Tensor | None, to_quats: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [None if g is None else g.contiguous() for g in (to_means, to_quats)]
        wanted = [
            torch.empty_like(x) if need else None
            for x, need in zip(ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True)
        ]
        native.library().spline_backward(*ctx.saved_tensors, *ctx.place, *given, *wanted, native.threads())
        return (*wanted, None)
