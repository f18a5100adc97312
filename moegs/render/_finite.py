"""Refusing what is not finite, in the same words by every backend on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moegs.errors import ShapeError
from moegs.render.camera import check_camera
from moegs.render.types import RasterInputs

NAMES = ("means", "quats", "scales", "covars", "opacities", "sh", "features")


def check_finite(inputs: RasterInputs) -> None:
    """Refuse Gaussians, features and cameras with values that are not finite.

    Raises:
        ShapeError: there is one; the message says where.
    """
    given = {name: getattr(inputs.gaussians, name) for name in NAMES} | {"features": inputs.features}
    complain(given)
    check_camera(inputs.camera.viewmat.tolist(), inputs.camera.K.tolist())


def complain(given: Mapping[str, Tensor | None]) -> None:
    """Say which tensor is not finite, and where first; nothing if all are.

    Raises:
        ShapeError: one is not.
    """
    for name, value in given.items():
        if value is None or bool(value.detach().isfinite().all()):
            continue
        where = tuple(torch.nonzero(~value.isfinite())[0].tolist())
        raise ShapeError(f"{name}: expected finite values, got {value[where].item()} at index {list(where)}.")
