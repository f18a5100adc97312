"""Real spherical harmonics of degree 0 to 3 in the INRIA convention (constants and signs of 3D Gaussian splatting)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ShapeError

C0 = 0.5 / math.sqrt(math.pi)
_C1 = math.sqrt(3 / (4 * math.pi))
_C2 = math.sqrt(15 / (4 * math.pi))
_C3 = [
    math.sqrt(35 / (32 * math.pi)),
    math.sqrt(105 / (4 * math.pi)),
    math.sqrt(21 / (32 * math.pi)),
    math.sqrt(7 / (16 * math.pi)),
]


def basis(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n k"]:
    """Values of the ``(degree + 1)**2`` harmonics in unit directions.

    Raises:
        ShapeError: the degree is not 0, 1, 2 or 3.
    """
    if degree not in range(4):
        raise ShapeError(f"degree: expected 0, 1, 2 or 3, got {degree}.")
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, C0)]
    if degree > 0:
        terms += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree > 1:
        terms += _second(x, y, z)
    if degree > 2:
        terms += _third(x, y, z)
    return torch.stack(terms, dim=-1)


def _second(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    third = math.sqrt(1 / 3)
    return [
        _C2 * x * y,
        -_C2 * y * z,
        _C2 * 0.5 * third * (2 * z * z - x * x - y * y),
        -_C2 * x * z,
        _C2 * 0.5 * (x * x - y * y),
    ]


def _third(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    xx, yy, zz = x * x, y * y, z * z
    return [
        -_C3[0] * y * (3 * xx - yy),
        _C3[1] * x * y * z,
        -_C3[2] * y * (4 * zz - xx - yy),
        _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
        -_C3[2] * x * (4 * zz - xx - yy),
        0.5 * _C3[1] * z * (xx - yy),
        -_C3[0] * x * (xx - 3 * yy),
    ]


def evaluate(sh: Float[Tensor, "n k c"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
    """Sum of coefficients times harmonics, without the offset of one half."""
    degree = math.isqrt(sh.shape[1]) - 1
    return torch.einsum("nk,nkc->nc", basis(directions, degree), sh)


def colors(sh: Float[Tensor, "n k 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Colours seen along unit directions from the camera: ``max(sum_i sh_i Y_i + 0.5, 0)``."""
    return (evaluate(sh, directions) + 0.5).clamp_min(0.0)


def from_rgb(rgb: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """DC coefficient that shows a colour in every direction."""
    return (rgb - 0.5) / C0


def to_rgb(dc: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Colour of a DC coefficient."""
    return dc * C0 + 0.5
