"""Sampling of a HexPlane: six feature planes a level, one for each pair of the coordinates x, y, z, t.

Cao and Johnson, "HexPlane", CVPR 2023, as 4DGaussians uses it: the six bilinear samples of a level are multiplied, and
the levels are concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from moegs.errors import ShapeError
from moegs.render.native import planes as native

PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  # coordinates (last, second last axis) of the six planes

Planes = Sequence[Sequence[Float[Tensor, "1 c _ _"]]]


def sample_planes(planes: Planes, coords: Float[Tensor, "n 4"]) -> Float[Tensor, "n f"]:
    """Features of points in space-time: per level the product of six plane samples, then the levels side by side.

    Bilinear, clamped at the border; -1 is the centre of the first cell and 1 that of the last (``align_corners``).
    Differentiable in planes and coordinates; a coordinate outside [-1, 1] gets no gradient. On the CPU in float32 the
    native kernel runs where it is built, and :func:`sample_planes_reference` otherwise. Planes in ``channels_last``
    memory format spare it a copy each way, and one time shared by all points most of the work on the planes of t.
    A point with a NaN coordinate gets NaN features and takes no part in the gradients.

    Args:
        planes: levels, each of six planes in the order (x,y), (x,z), (x,t), (y,z), (y,t), (z,t). The plane of a pair
            (a, b) is ``[1, c, cells along b, cells along a]``; all have the same number of channels.
        coords: x, y, z, t, nominally in [-1, 1].

    Returns:
        ``[n, levels * c]``.

    Raises:
        ShapeError: a shape, dtype or device does not fit the rest.
    """
    check_planes(planes, coords)
    if native.usable(planes, coords):
        return native.sample_planes(planes, coords)
    return sample_planes_reference(planes, coords)


def sample_planes_reference(planes: Planes, coords: Float[Tensor, "n 4"]) -> Float[Tensor, "n f"]:
    """The same in plain torch: any device, float32 and float64. Slow and obvious."""
    lost = coords.isnan().any(dim=1, keepdim=True)  # torch's own backward crashes on NaN coordinates
    coords = coords.masked_fill(lost, 0.0)
    return torch.cat([_level(level, coords) for level in planes], dim=1).masked_fill(lost, torch.nan)


def _level(level: Sequence[Tensor], coords: Float[Tensor, "n 4"]) -> Float[Tensor, "n c"]:
    product = coords.new_ones(())
    for plane, pair in zip(level, PAIRS, strict=True):
        grid = coords[:, pair].view(1, 1, -1, 2)
        sample = grid_sample(plane, grid, mode="bilinear", padding_mode="border", align_corners=True)
        product = product * sample[0, :, 0].T
    return product


def check_planes(planes: Planes, coords: Tensor) -> None:
    """Raise a :class:`ShapeError` unless planes and coordinates fit together."""
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise ShapeError(f"sample_planes: expected coords as [n, 4], got {list(coords.shape)}.")
    if not planes:
        raise ShapeError("sample_planes: expected at least one level of planes, got none.")
    for i, level in enumerate(planes):
        _check_level(i, level, planes[0][0] if planes[0] else coords, coords)


def _check_level(i: int, level: Sequence[Tensor], first: Tensor, coords: Tensor) -> None:
    if len(level) != len(PAIRS):
        raise ShapeError(f"sample_planes: level {i} has {len(level)} planes; expected 6: xy, xz, xt, yz, yt, zt.")
    cells: dict[int, int] = {}
    for plane, (a, b) in zip(level, PAIRS, strict=True):
        where = f"sample_planes: plane {'xyzt'[a]}{'xyzt'[b]} of level {i}"
        if plane.ndim != 4 or plane.shape[0] != 1 or min(plane.shape) < 1 or plane.shape[1] != first.shape[1]:
            raise ShapeError(f"{where}: expected [1, {first.shape[1]}, rows, columns], got {list(plane.shape)}.")
        if plane.dtype != coords.dtype or plane.device != coords.device or not plane.is_floating_point():
            raise ShapeError(
                f"{where} is {plane.dtype} on {plane.device}, coords are {coords.dtype} on {coords.device}."
            )
        if (cells.setdefault(a, plane.shape[3]), cells.setdefault(b, plane.shape[2])) != tuple(plane.shape[:1:-1]):
            raise ShapeError(f"{where}: {list(plane.shape[2:])} cells disagree with the planes before it.")
