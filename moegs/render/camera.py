"""Pinhole cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ShapeError
from moegs.render.native import rays as native


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
        ShapeError: a matrix has the wrong shape, the image is empty, or ``near >= far``.
    """

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    width: int
    height: int
    near: float = 0.01
    far: float = 1e10

    def __post_init__(self) -> None:
        if tuple(self.viewmat.shape) != (4, 4):
            raise ShapeError(f"Camera.viewmat: expected [4, 4], got {list(self.viewmat.shape)}.")
        if tuple(self.K.shape) != (3, 3):
            raise ShapeError(f"Camera.K: expected [3, 3], got {list(self.K.shape)}.")
        if self.width < 1 or self.height < 1:
            raise ShapeError(f"Camera: expected an image of at least 1x1, got {self.width}x{self.height}.")
        if not 0 < self.near < self.far:
            raise ShapeError(f"Camera: expected 0 < near < far, got near {self.near} and far {self.far}.")

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
