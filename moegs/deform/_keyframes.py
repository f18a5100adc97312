"""Tensors of the spline population, made from Gaussians that stand still."""

from __future__ import annotations

from torch import Tensor


def spline_params(fields: dict[str, Tensor], n_keyframes: int, centers: Tensor, widths: Tensor) -> dict[str, Tensor]:
    """Constant key frames in place of ``means`` and ``quats``, with an opacity window [n, 2] in key-frame units."""
    kept = {k: v for k, v in fields.items() if k not in ("means", "quats", "displacements")}
    repeated = {
        "keyframes": fields["means"][:, None].repeat(1, n_keyframes, 1),
        "rotations": fields["quats"][:, None].repeat(1, n_keyframes, 1),
    }
    return kept | repeated | {"centers": centers, "widths": widths}
