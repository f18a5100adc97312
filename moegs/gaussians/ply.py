"""Gaussians as the .ply file of the original 3D Gaussian splatting (INRIA), which every splat viewer opens.

The file holds raw values: log scales, logit opacities, quaternions of any length (wxyz). ``f_rest`` is channel-major:
all higher coefficients of red, then green, then blue. Normals are zeros.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import FormatError, ShapeError
from moegs.gaussians import quaternions
from moegs.gaussians.container import Gaussians, axes
from moegs.gaussians.vertices import expect_names, read_vertices, write_vertices

OPACITY_MARGIN = 1e-7  # opacities of exactly 0 or 1 have no finite logit
SCALE_MIN = 1e-20
_REST_COUNTS = (0, 9, 24, 45)


def read_ply(path: str | Path) -> Gaussians:
    """Read one INRIA .ply and activate it.

    Raises:
        FormatError: the file is missing, cut short, or its properties are not exactly those of the format; the message
            names the file and the property.
    """
    columns = read_vertices(path)
    rest = rest_count(path, columns)
    expect_names(path, columns, inria_names(rest))
    return _finite(
        path,
        Gaussians(
            means=stack(columns, "x", "y", "z"),
            opacities=torch.sigmoid(stack(columns, "opacity")[:, 0]),
            sh=torch.cat([stack(columns, *numbered("f_dc", 3))[:, None], read_rest(columns, "f_rest", rest)], dim=1),
            quats=quaternions.normalize(stack(columns, *numbered("rot", 4))),
            scales=torch.exp(stack(columns, *numbered("scale", 3))),
        ),
    )


def write_ply(gaussians: Gaussians, path: str | Path) -> None:
    """Write Gaussians as one INRIA .ply, float32. Atomic.

    Covariances are decomposed into scales and rotations, scales lose their sign, which nothing shows. Opacities are kept
    1e-7 away from 0 and 1. Anchors are left out: viewers look colours up where a Gaussian is.

    Raises:
        ShapeError: the Gaussians carry features, which the format cannot hold.
        FormatError: a value is not finite.
    """
    if gaussians.features is not None:
        raise ShapeError(
            "write_ply: the Gaussians carry features, which a .ply cannot hold; decode or drop them first."
        )
    g = gaussians.detach().to("cpu")
    if g.covars is not None and not torch.isfinite(g.covars).all():
        raise FormatError(f"{path}: covars are not finite; nothing was written.")
    quats, scales = axes(g)
    opacities = g.opacities.double().clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    raw = {
        **columns_of(g.means, "x", "y", "z"),
        **columns_of(torch.zeros_like(g.means), "nx", "ny", "nz"),
        **columns_of(g.sh[:, 0], *numbered("f_dc", 3)),
        **rest_columns(g.sh[:, 1:], "f_rest"),
        **columns_of(torch.logit(opacities)[:, None], "opacity"),
        **columns_of(torch.log(scales.double().abs().clamp_min(SCALE_MIN)), *numbered("scale", 3)),
        **columns_of(quats, *numbered("rot", 4)),
    }
    write_vertices(path, raw)


def inria_names(rest: int = 45) -> list[str]:
    """Property names in the order of the original writer; ``rest`` is the number of ``f_rest`` columns."""
    names = ["x", "y", "z", "nx", "ny", "nz", *numbered("f_dc", 3), *numbered("f_rest", rest)]
    return [*names, "opacity", *numbered("scale", 3), *numbered("rot", 4)]


def rest_count(path: str | Path, columns: dict[str, np.ndarray] | tuple[str, ...], prefix: str = "f_rest") -> int:
    """Number of higher spherical-harmonic columns.

    Raises:
        FormatError: it does not belong to a degree from 0 to 3.
    """
    count = sum(name.startswith(f"{prefix}_") for name in columns)
    if count not in _REST_COUNTS:
        raise FormatError(f"{path}: expected 0, 9, 24 or 45 properties {prefix}_*, got {count}.")
    return count


def stack(columns: dict[str, np.ndarray], *names: str) -> Float[Tensor, "n c"]:
    """Columns side by side as a fresh tensor."""
    return torch.from_numpy(np.stack([columns[name] for name in names], axis=1).astype(np.float32))


def read_rest(columns: dict[str, np.ndarray], prefix: str, count: int) -> Float[Tensor, "n k 3"]:
    """Higher coefficients from their channel-major columns."""
    if count == 0:
        return torch.zeros(len(next(iter(columns.values()))), 0, 3)
    return stack(columns, *numbered(prefix, count)).unflatten(1, (3, count // 3)).mT.contiguous()


def columns_of(values: Float[Tensor, "n c"], *names: str) -> dict[str, np.ndarray]:
    """Columns of a matrix by name, in order."""
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ShapeError(f"{names[0]}…: expected [n, {len(names)}], got {list(values.shape)}.")
    table = values.detach().cpu().numpy()
    return {name: table[:, i] for i, name in enumerate(names)}


def rest_columns(rest: Float[Tensor, "n k 3"], prefix: str) -> dict[str, np.ndarray]:
    """Channel-major columns of the higher coefficients."""
    return columns_of(rest.mT.flatten(1), *numbered(prefix, 3 * rest.shape[1])) if rest.shape[1] else {}


def _finite(path: str | Path, gaussians: Gaussians) -> Gaussians:
    for name in ("quats", "scales"):
        if not torch.isfinite(getattr(gaussians, name)).all():
            raw = {"quats": "rot_*", "scales": "scale_*"}[name]
            raise FormatError(f"{path}: properties {raw!r} overflow when they are activated; the file is damaged.")
    return gaussians


def numbered(prefix: str, count: int) -> list[str]:
    """``prefix_0``, ``prefix_1``…"""
    return [f"{prefix}_{i}" for i in range(count)]
