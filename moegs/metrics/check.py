"""What every image metric asks of its arguments."""

from __future__ import annotations

from torch import Tensor

from moegs.errors import ShapeError


def same_images(name: str, image: Tensor, target: Tensor) -> None:
    """Raise a :class:`ShapeError` unless both are ``[h, w, c]`` of one shape, floating dtype and device."""
    if image.ndim != 3 or min(image.shape) < 1:
        raise ShapeError(f"{name}: expected image as [h, w, c], got {list(image.shape)}.")
    if image.shape != target.shape:
        raise ShapeError(f"{name}: target {list(target.shape)} does not match image {list(image.shape)}.")
    if not (image.is_floating_point() and image.dtype == target.dtype):
        raise ShapeError(f"{name}: expected one floating dtype for both, got {image.dtype} and {target.dtype}.")
    if image.device != target.device:
        raise ShapeError(f"{name}: image is on {image.device}, target on {target.device}; move one of them.")
