"""HexPlane sampling with gradients to planes and coordinates, all planes and levels in one call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render import native


def usable(planes: Sequence[Sequence[Tensor]], coords: Tensor) -> bool:
    """Whether the kernel covers these: see :func:`moegs.render.native.takes`."""
    return native.takes(coords, *(plane for level in planes for plane in level))


def sample_planes(planes: Sequence[Sequence[Tensor]], coords: Float[Tensor, "n 4"]) -> Float[Tensor, "n f"]:
    """Native twin of :func:`moegs.deform._planes.sample_planes_reference`; arguments are checked there."""
    return _SamplePlanes.apply(coords, *(plane for level in planes for plane in level))


def _is_channels_last(plane: Tensor) -> bool:
    return plane.is_contiguous(memory_format=torch.channels_last)


def _as_laid_out(plane: Tensor) -> Tensor:
    """``[rows, columns, c]`` or ``[c, rows, columns]``, whichever is contiguous."""
    return plane[0].permute(1, 2, 0) if _is_channels_last(plane) else plane[0]


def _empty_like(planes: list[Tensor]) -> list[Tensor]:
    """One tensor a plane, laid out alike, all in one allocation: the system keeps handing out the same warm pages."""
    ends = list(accumulate(-(-p.numel() // 16) * 16 for p in planes))
    memory = planes[0].new_empty(ends[-1])
    return [_cut(memory, start, plane) for start, plane in zip([0, *ends[:-1]], planes, strict=True)]


def _cut(memory: Tensor, start: int, plane: Tensor) -> Tensor:
    _, c, rows, columns = plane.shape
    piece = memory[start : start + plane.numel()]
    if _is_channels_last(plane):
        return piece.view(1, rows, columns, c).permute(0, 3, 1, 2)
    return piece.view(1, c, rows, columns)


class _SamplePlanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coords: Tensor, *planes: Tensor) -> Tensor:
        coords = coords.detach().contiguous()
        planes = tuple(p.detach() if _is_channels_last(p) else p.detach().contiguous() for p in planes)
        channels_last = [_is_channels_last(p) for p in planes]
        ctx.sampler = native.library().PlaneSampler(
            [_as_laid_out(p) for p in planes], channels_last, coords, native.threads()
        )
        ctx.save_for_backward(coords, *planes)
        features = coords.new_empty(coords.shape[0], len(planes) // 6 * planes[0].shape[1])
        ctx.sampler.forward(features)
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        coords, *planes = ctx.saved_tensors
        to_coords = torch.empty_like(coords) if ctx.needs_input_grad[0] else None
        to_planes = _empty_like(planes) if any(ctx.needs_input_grad[1:]) else []
        ctx.sampler.backward(upstream.contiguous(), [_as_laid_out(p) for p in to_planes], to_coords)
        return (to_coords, *to_planes) if to_planes else (to_coords, *(None for _ in planes))
