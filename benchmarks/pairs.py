"""Which Gaussian contributes to which pixel: the work that any rasteriser has to do."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.scenes import BenchScene
from moegs.render.projection import Projected, project
from moegs.render.types import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN, RasterInputs, RasterOptions

TILE = 16

# Counted by hand for three channels, a multiply-add as two; a channel more is one multiply-add forward, two backward.
FLOP_FORWARD, FLOP_BACKWARD, FLOP_CHANNEL = 34, 63, (2, 4)
FLOP_PER_CYCLE = 32  # one fused multiply-add of sixteen lanes


def projected(scene: BenchScene) -> Projected:
    """The scene's Gaussians in its image, by the reference's projection."""
    background = torch.zeros(1, 3)
    with torch.no_grad():
        return project(RasterInputs(scene.gaussians, scene.camera, (RasterOptions(),), background))


@torch.no_grad()
def contributing(p: Projected, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Pairs (row of ``p``, pixel index) with alpha ≥ 1/255 before the pixel is opaque, by pixel and then by depth."""
    order = torch.sort(p.depths, stable=True).indices
    low, high = (p.means2d - p.extents)[order], (p.means2d + p.extents)[order]
    gaussians, pixels = [], []
    for y in range(0, height, TILE):
        in_row = (low[:, 1] < y + TILE) & (high[:, 1] > y)
        for x in range(0, width, TILE):
            chosen = order[in_row & (low[:, 0] < x + TILE) & (high[:, 0] > x)]
            area = (x, min(x + TILE, width), y, min(y + TILE, height))
            pixel, member = torch.nonzero(_weighs(p, chosen, area), as_tuple=True)
            columns = area[1] - x
            gaussians.append(chosen[member])
            pixels.append((y + pixel // columns) * width + x + pixel % columns)
    gaussian, pixel = torch.cat(gaussians), torch.cat(pixels)
    by_pixel = torch.sort(pixel, stable=True)
    return gaussian[by_pixel.indices], by_pixel.values


def _weighs(p: Projected, chosen: Tensor, area: tuple[int, int, int, int]) -> Tensor:
    """``[pixels, chosen]``: whether each Gaussian, front to back, adds to each pixel of a tile."""
    x0, x1, y0, y1 = area
    grid_y, grid_x = torch.meshgrid(torch.arange(y0, y1) + 0.5, torch.arange(x0, x1) + 0.5, indexing="ij")
    dx = p.means2d[chosen, 0] - grid_x.reshape(-1, 1)
    dy = p.means2d[chosen, 1] - grid_y.reshape(-1, 1)
    a, b, c = p.conics[chosen].T
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (p.opacities[chosen] * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
    seen = (sigma >= 0) & (alpha >= ALPHA_MIN)
    transmittance = torch.cumprod(torch.where(seen, 1 - alpha, 1.0), dim=1)
    return seen & (transmittance > TRANSMITTANCE_MIN)


def limit_ms(pairs: int, channels: int, ghz: float) -> float:
    """Time that the arithmetic of forward and backward takes at the least, on one core."""
    forward = FLOP_FORWARD + FLOP_CHANNEL[0] * (channels - 3)
    backward = FLOP_BACKWARD + FLOP_CHANNEL[1] * (channels - 3)
    return pairs * (forward + backward) / (FLOP_PER_CYCLE * ghz * 1e9) * 1e3
