"""Pinhole cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral
from operator import mul
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ShapeError
from moegs.render.native import rays as native

RIGID = 1e-2  # by how much R Rᵀ may differ from 1: calibrations are never exact, a transposed or scaled matrix is far off


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: world→camera, OpenCV axes (x right, y down, z forward), pixel centres at +0.5.

    Attributes:
        viewmat: rigid world→camera transform, ``[4, 4]``.
        K: intrinsics in pixels, ``[3, 3]``, without skew; the principal point may lie anywhere.
        width: image width in pixels.
        height: image height in pixels.
        near: Gaussians whose centre is nearer than this (camera z, world units) are not drawn.
        far: Gaussians whose centre is farther than this are not drawn.

    Raises:
        ShapeError: a matrix has the wrong shape or is no tensor, the image is empty or not of whole pixels,
            ``near >= far``, ``viewmat`` is not rigid or ``K`` not without skew. What matrices on a GPU hold is not looked
            at, which would wait for it.
    """

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    width: int
    height: int
    near: float = 0.01
    far: float = 1e10

    def __post_init__(self) -> None:
        for name, value, n in (("viewmat", self.viewmat, 4), ("K", self.K, 3)):
            if not isinstance(value, Tensor):
                raise ShapeError(f"Camera.{name}: expected a tensor, got {type(value).__name__}; use torch.as_tensor().")
            if tuple(value.shape) != (n, n):
                raise ShapeError(f"Camera.{name}: expected [{n}, {n}], got {list(value.shape)}.")
        if not (isinstance(self.width, Integral) and isinstance(self.height, Integral)):
            raise ShapeError(f"Camera: expected width and height as integers, got {self.width!r} and {self.height!r}.")
        if self.width < 1 or self.height < 1:
            raise ShapeError(f"Camera: expected an image of at least 1x1, got {self.width}x{self.height}.")
        if not 0 < self.near < self.far:
            raise ShapeError(f"Camera: expected 0 < near < far, got near {self.near} and far {self.far}.")

        if self.viewmat.device.type == "cpu" == self.K.device.type and not _inside_func(self.viewmat, self.K):
            check_camera(self.viewmat.tolist(), self.K.tolist())

    @property
    def centre(self) -> Float[Tensor, "3"]:
        """Position of the camera in world units."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def to(self, target: torch.device | torch.dtype | str) -> Camera:
        """Move both matrices to a device or cast them to a dtype."""
        viewmat, K = self.viewmat.to(target), self.K.to(target)
        return self if viewmat is self.viewmat and K is self.K else replace(self, viewmat=viewmat, K=K)

    def like(self, tensor: Tensor) -> Camera:
        """With matrices of a tensor's dtype, on its device."""
        kind = tensor.dtype, tensor.device
        if (self.viewmat.dtype, self.viewmat.device) == kind and (self.K.dtype, self.K.device) == kind:
            return self
        return self.to(tensor.device).to(tensor.dtype)

    def resized(self, width: int, height: int) -> Camera:
        """The same camera at another image size; intrinsics scale with it."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0], dtype=self.K.dtype, device=self.K.device)
        return replace(self, K=self.K * scale[:, None], width=width, height=height)


def _inside_func(*tensors: Tensor) -> bool:
    """Whether ``torch.func`` wraps them, so that they cannot be read."""
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


def check_camera(viewmat: list[list[float]], K: list[list[float]]) -> None:
    """Refuse matrices, as lists of rows, that are not those of a pinhole camera.

    Raises:
        ShapeError: a number is not finite, ``viewmat`` is not rigid, or ``K`` has skew or no focal length above 0.
    """
    if not all(map(math.isfinite, [x for row in (*viewmat, *K) for x in row])):
        raise ShapeError(f"camera: expected finite matrices, got viewmat {viewmat} and K {K}.")
    if any(abs(x - (j == 3)) > RIGID for j, x in enumerate(viewmat[3])):
        hint = "; is it transposed, as 3D Gaussian Splatting keeps it?" if any(viewmat[3][:3]) else "."
        raise ShapeError(f"camera: expected 0, 0, 0, 1 as the last row of viewmat, got {viewmat[3]}{hint}")
    turn = [row[:3] for row in viewmat[:3]]
    off = max(abs(sum(map(mul, a, b)) - (i == j)) for i, a in enumerate(turn) for j, b in enumerate(turn))
    if off > RIGID:
        raise ShapeError(f"camera: expected a rotation in viewmat, R Rᵀ is off by {off:.3g}: {turn}.")
    (fx, skew, _), (tilt, fy, _), last = K
    if fx <= 0 or fy <= 0:
        raise ShapeError(f"camera: expected focal lengths above 0, got K {K}.")
    if max(abs(skew), abs(tilt)) > RIGID or any(abs(x - (j == 2)) > RIGID for j, x in enumerate(last)):
        raise ShapeError(f"camera: expected K as [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], without skew, got {K}.")


def rays(camera: Camera) -> Float[Tensor, "h w 6"]:
    """Ray map through the pixel centres: origin (world units) and unit direction (world), six channels a pixel."""
    directions = view_directions(camera)
    return torch.cat([camera.centre.expand_as(directions), directions], dim=-1)


def view_directions(camera: Camera) -> Float[Tensor, "h w 3"]:
    """Unit directions (world) through the pixel centres."""
    x, y, axes = _image_plane(camera)
    return native.ray_directions(x, y, axes) if native.usable(x, y, axes) else view_directions_by_torch(camera)


def _image_plane(camera: Camera) -> tuple[Float[Tensor, "w"], Float[Tensor, "h"], Float[Tensor, "3 3"]]:
    """Pixel centres at depth one, by column and by row, and the camera's axes (right, down, forward) in the world."""
    k = camera.K
    options: dict[str, Any] = {"dtype": k.dtype, "device": k.device}
    x = (torch.arange(camera.width, **options) + 0.5 - k[0, 2]) / k[0, 0]
    y = (torch.arange(camera.height, **options) + 0.5 - k[1, 2]) / k[1, 1]
    return x, y, camera.viewmat[:3, :3].to(k)


def view_directions_by_torch(camera: Camera) -> Float[Tensor, "h w 3"]:
    """Plain twin of :func:`view_directions`, for every device and precision, and with gradients to the camera."""
    x, y, (right, down, forward) = _image_plane(camera)
    # sums of outer products: a matrix as narrow as this is multiplied slowly
    directions = x[:, None] * right + (y[:, None] * down + forward)[:, None]
    return directions.mul_((x.square() + (y.square() + 1)[:, None]).rsqrt_()[..., None])  # a rotation keeps lengths
