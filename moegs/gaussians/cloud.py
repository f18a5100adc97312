"""Coloured points: what a capture's geometry is before there are Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.errors import ShapeError


@dataclass(frozen=True)
class PointCloud:
    """Surface points of a scene, float32.

    Attributes:
        points: positions in world units, ``[n, 3]``.
        colors: red, green, blue in [0, 1], ``[n, 3]``.
        times: clip-normalised time at which each point was seen, ``frame / n_frames``, ``[n]``; None when all belong to
            the first frame.

    Raises:
        ShapeError: a field has the wrong shape, or is not float32.
    """

    points: Float[Tensor, "n 3"]
    colors: Float[Tensor, "n 3"]
    times: Float[Tensor, "n"] | None = None

    def __post_init__(self) -> None:
        n = self.points.shape[0] if self.points.ndim else -1
        _expect("points", self.points, (n, 3))
        _expect("colors", self.colors, (n, 3))
        if self.times is not None:
            _expect("times", self.times, (n,))

    def __len__(self) -> int:
        return self.points.shape[0]

    def __getitem__(self, index: Bool[Tensor, "n"] | Int[Tensor, "m"] | slice) -> PointCloud:
        """Select points with a mask, an index tensor or a slice."""
        times = None if self.times is None else self.times[index]
        return PointCloud(self.points[index], self.colors[index], times)


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape or value.dtype != torch.float32:
        found = f"{list(value.shape)} of {value.dtype}"
        raise ShapeError(f"PointCloud.{name}: expected {list(shape)} of torch.float32, got {found}.")
