"""Refusing what is not finite, in the same words by every backend on the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from moegs.errors import ShapeError
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


def check_camera(viewmat: list[list[float]], K: list[list[float]]) -> None:
    """Refuse a camera without meaning.

    Raises:
        ShapeError: a number is not finite or a focal length is zero.
    """
    if not all(map(math.isfinite, [x for row in (*viewmat, *K) for x in row])) or K[0][0] == 0 or K[1][1] == 0:
        raise ShapeError(f"camera: expected finite matrices and non-zero focal lengths, got viewmat {viewmat} and K {K}.")
