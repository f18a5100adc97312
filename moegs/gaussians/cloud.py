"""Coloured points: what a capture's geometry is before there are Gaussians."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.errors import ShapeError
from moegs.gaussians.container import Gaussians


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Surface points of a scene, float32.

    Attributes:
        points: positions in world units, ``[n, 3]``.
        colors: red, green, blue in [0, 1], ``[n, 3]``.
        times: clip-normalised time at which each point was seen, ``frame / n_frames``, ``[n]``, NaN where that is not
            known; None when all belong to the first frame.
        spans: for how long each point is known to be there, as a fraction of the clip around its time, ``[n]``; None
            when all may be there throughout.
        velocities: how far each point moves, in world units per clip length, ``[n, 3]``; None when nothing is known.
        looks: Gaussians that the points are known to be, ``n`` of them with ``quats`` and ``scales``; their means count for
            nothing. None when only points are known.

    Raises:
        ShapeError: a field has the wrong shape, or is not float32.
    """

    points: Float[Tensor, "n 3"]
    colors: Float[Tensor, "n 3"]
    times: Float[Tensor, "n"] | None = None
    spans: Float[Tensor, "n"] | None = None
    velocities: Float[Tensor, "n 3"] | None = None
    looks: Gaussians | None = None

    def __post_init__(self) -> None:
        n = self.points.shape[0] if self.points.ndim else -1
        _expect("points", self.points, (n, 3))
        _expect("colors", self.colors, (n, 3))
        for name, shape in (("times", (n,)), ("spans", (n,)), ("velocities", (n, 3))):
            if (value := getattr(self, name)) is not None:
                _expect(name, value, shape)
        if self.looks is not None and (len(self.looks) != n or self.looks.quats is None or self.looks.by_covar is not None):
            raise ShapeError(f"PointCloud.looks: expected {n} Gaussians with quats and scales.")
        if self.looks is not None and self.looks.means.dtype != torch.float32:
            raise ShapeError(f"PointCloud.looks: expected torch.float32, got {self.looks.means.dtype}.")

    def __len__(self) -> int:
        return self.points.shape[0]

    def __repr__(self) -> str:
        known = [name for name in ("times", "spans", "velocities", "looks") if getattr(self, name) is not None]
        return f"PointCloud({len(self):,} points{''.join(f', {name}' for name in known)})"

    def __getitem__(self, index: Bool[Tensor, "n"] | Int[Tensor, "m"] | slice) -> PointCloud:
        """Select points with a mask, an index tensor or a slice."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: value[index] for name, value in known.items()})


def drawn(cloud: PointCloud, n: int, seed: int) -> PointCloud:
    """At most ``n`` of the points, drawn at random, in the order they had."""
    if len(cloud) <= n:
        return cloud
    return cloud[torch.randperm(len(cloud), generator=torch.Generator().manual_seed(seed))[:n].sort().values]


def joined(first: PointCloud, second: PointCloud) -> PointCloud:
    """The points of both; what only one of them knows is filled in for the other: no time, there throughout, still.

    Raises:
        ShapeError: one of them has looks.
    """
    if first.looks is not None or second.looks is not None:
        raise ShapeError("joined: expected clouds without looks; join the Gaussians instead.")
    fields: dict[str, Any] = {n: torch.cat([getattr(first, n), getattr(second, n)]) for n in ("points", "colors")}
    for name, usual in (("times", torch.nan), ("spans", 1.0), ("velocities", 0.0)):
        known = [getattr(first, name), getattr(second, name)]
        if any(value is not None for value in known):
            fields[name] = torch.cat([_or_usual(v, c, name, usual) for v, c in zip(known, (first, second), strict=True)])
    return PointCloud(**fields)


def _or_usual(value: Tensor | None, cloud: PointCloud, name: str, usual: float) -> Tensor:
    like = cloud.points if name == "velocities" else cloud.points[:, 0]
    return torch.full_like(like, usual) if value is None else value


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape or value.dtype != torch.float32:
        found = f"{list(value.shape)} of {value.dtype}"
        raise ShapeError(f"PointCloud.{name}: expected {list(shape)} of torch.float32, got {found}.")
