"""Gaussians as they are for programs that draw with 3D Gaussian Splatting's own low-pass filter, as most viewers do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.gaussians import quaternions
from moegs.gaussians.container import Gaussians, axes
from moegs.render.types import RasterOptions

VIEWERS = RasterOptions()  # how viewers draw: 0.3 px², opacities as they are
THINNEST = 0.03  # standard deviation in pixels that is left of what the filter makes wide enough by itself


def drawn_alike(a: RasterOptions, b: RasterOptions) -> bool:
    """Whether two ways of drawing have the same low-pass filter."""
    return (a.eps2d, a.compensate) == (b.eps2d, b.compensate)


def viewpoints(meta: dict[str, Any]) -> Float[Tensor, "v 7"] | None:
    """Where an expert was seen from in training: centre, viewing direction and focal length in pixels of each camera.

    None where its ``meta`` does not say so, or says something else.
    """
    rows = meta.get("seen_from")
    if not isinstance(rows, list) or not rows or not all(_is_viewpoint(row) for row in rows):
        return None
    return torch.tensor(rows, dtype=torch.float32)


def refiltered(gaussians: Gaussians, options: RasterOptions, seen_from: Float[Tensor, "v 7"]) -> Gaussians:
    """Gaussians that :data:`VIEWERS` draws nearly as ``options`` draws those that are given, at the cameras' resolution.

    Exact where a Gaussian's covariance in the image has the difference of the filters to give; what is thinner is drawn
    too wide, and as much fainter. Both go by the pixel of the median of the cameras that it is before.

    Args:
        gaussians: at one moment.
        options: how they were drawn when they were trained.
        seen_from: as of :func:`viewpoints`.
    """
    places = seen_from.to(gaussians.means)
    offsets = gaussians.means[:, None] - places[None, :, :3]
    depths = (offsets * places[:, 3:6]).sum(-1)
    facing = depths > 0
    pixel = torch.where(facing, depths / places[:, 6], math.nan).nanmedian(dim=1).values.nan_to_num().square()[:, None]
    quats, scales = (v.to(gaussians.means) for v in axes(gaussians))
    looking = (torch.nn.functional.normalize(offsets, dim=-1) * facing[..., None]).sum(dim=1)
    along = torch.einsum("nij,ni->nj", quaternions.to_matrix(quats), torch.nn.functional.normalize(looking, dim=-1))
    before = scales.square()
    after = torch.maximum(before + (options.eps2d - VIEWERS.eps2d) * pixel, THINNEST**2 * pixel).clamp_min(1e-20)
    spread = before if options.compensate else before + options.eps2d * pixel  # what an opacity of one would cover
    factor = (_shadow(spread, along) / _shadow(after + VIEWERS.eps2d * pixel, along)).sqrt()
    opacities = (gaussians.opacities * factor).clamp(max=1.0)
    return replace(gaussians, quats=quats, scales=after.sqrt(), opacities=opacities, covars=None, by_covar=None)


def _shadow(variances: Float[Tensor, "n 3"], along: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Determinant of the covariance that is left when ellipsoids are looked at along a direction of their own axes."""
    x, y, z = variances.unbind(-1)
    return (torch.stack([y * z, x * z, x * y], dim=-1) * along.square()).sum(-1).clamp_min(1e-30)


def _is_viewpoint(row: Any) -> bool:
    numbers = isinstance(row, list) and len(row) == 7
    return numbers and all(type(v) in (int, float) and math.isfinite(v) for v in row) and row[6] > 0
