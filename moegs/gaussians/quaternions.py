"""Quaternions (wxyz), rotation matrices and the covariances they make."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-12  # quaternions shorter than this carry no direction


def normalize(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Unit quaternions; a (nearly) zero one becomes the identity rotation and gets no gradient."""
    square = quats.square().sum(-1, keepdim=True)
    empty = square < TINY**2
    scale = torch.where(empty, 0.0, square.clamp_min(TINY**2).rsqrt())
    identity = quats.new_tensor([1.0, 0.0, 0.0, 0.0])
    return quats * scale + empty * identity


def to_matrix(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices of quaternions of any length (normalised here)."""
    w, x, y, z = normalize(quats).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def from_matrix(rotations: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 4"]:
    """Unit quaternions with w >= 0 of rotation matrices (Shepperd's method: the largest component is divided by)."""
    m = rotations
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    squares = torch.stack(
        [1 + trace] + [1 - trace + 2 * m[..., i, i] for i in range(3)], dim=-1
    )  # four times each squared component
    differences = [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]]
    sums = {(0, 1): m[..., 1, 0] + m[..., 0, 1], (0, 2): m[..., 0, 2] + m[..., 2, 0], (1, 2): m[..., 2, 1] + m[..., 1, 2]}
    products = torch.diag_embed(squares)
    for i, d in enumerate(differences):
        products[..., 0, i + 1] = products[..., i + 1, 0] = d
    for (i, j), s in sums.items():
        products[..., i + 1, j + 1] = products[..., j + 1, i + 1] = s
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quats = normalize(products.gather(-2, best).squeeze(-2))
    return torch.where(quats[..., :1] < 0, -quats, quats)


def covariance(quats: Float[Tensor, "*n 4"], scales: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """``R diag(scales)^2 R^T``."""
    m = to_matrix(quats) * scales[..., None, :]
    return m @ m.mT


def decompose(covars: Float[Tensor, "*n 3 3"]) -> tuple[Float[Tensor, "*n 4"], Float[Tensor, "*n 3"]]:
    """Quaternions and scales of covariances (eigenvalues are floored at 1e-20 before the root)."""
    values, vectors = torch.linalg.eigh(covars)
    handed = torch.where(torch.linalg.det(vectors)[..., None, None] < 0, -vectors, vectors)
    return from_matrix(handed), values.clamp_min(1e-20).sqrt()
