"""The readable backend: plain torch, any device, float32 and float64, gradients by autograd.

Every other backend is held against this one. It works tile by tile, so that only the Gaussians of one tile meet only the
pixels of that tile.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moegs.render._finite import check_finite
from moegs.render.projection import Projected, project
from moegs.render.types import ALPHA_MAX, ALPHA_MIN, TILE, TRANSMITTANCE_MIN, RasterInputs, RasterOutputs


def rasterize_reference(inputs: RasterInputs) -> RasterOutputs:
    """Backend function: every group is rendered on its own, one after the other.

    Raises:
        ShapeError: an input is not finite; the message says which, and where first.
    """
    check_finite(inputs)
    if inputs.groups is None:
        return _one_group(inputs)
    parts = [_one_group(_only(inputs, g)) for g in range(inputs.n_groups)]
    radii = inputs.gaussians.means.new_zeros(len(inputs.gaussians), 2)
    for g, part in enumerate(parts):
        radii[inputs.groups == g] = part.radii
    return RasterOutputs(
        color=torch.stack([p.color for p in parts]),
        depth=torch.stack([p.depth for p in parts]),
        alpha=torch.stack([p.alpha for p in parts]),
        features=None if inputs.features is None else torch.stack([p.features for p in parts if p.features is not None]),
        radii=radii,
    )


def _only(inputs: RasterInputs, group: int) -> RasterInputs:
    assert inputs.groups is not None
    mask = inputs.groups == group
    return replace(
        inputs,
        gaussians=inputs.gaussians[mask],
        features=None if inputs.features is None else inputs.features[mask],
        probe=None if inputs.probe is None else inputs.probe[mask],
        options=inputs.options[group : group + 1],
        background=inputs.background[group : group + 1],
        groups=None,
        tiles=None if inputs.tiles is None else inputs.tiles[group : group + 1],
    )


def _one_group(inputs: RasterInputs) -> RasterOutputs:
    camera, projected = inputs.camera, project(inputs)
    order = torch.sort(projected.depths.detach(), stable=True).indices
    channels = [projected.colors, projected.depths[:, None]]
    if inputs.features is not None:
        channels.append(inputs.features[projected.index])
    values = torch.cat(channels, dim=-1)
    probe = inputs.probe[projected.index] if inputs.absgrad and inputs.probe is not None else None
    tiles = None if inputs.tiles is None else inputs.tiles[0]
    image, alpha = composite(projected, values, order, (camera.width, camera.height), probe, tiles)
    radii = torch.zeros(len(inputs.gaussians), 2, dtype=values.dtype, device=values.device)
    radii[projected.index] = projected.extents.to(values.dtype)
    return RasterOutputs(
        color=image[..., :3] + (1 - alpha)[..., None] * inputs.background,
        depth=image[..., 3],
        alpha=alpha,
        features=None if inputs.features is None else image[..., 4:],
        radii=radii,
    )


def composite(
    projected: Projected,
    values: Float[Tensor, "m c"],
    order: Tensor,
    size: tuple[int, int],
    probe: Float[Tensor, "m 2"] | None = None,
    tiles: Bool[Tensor, "rows columns"] | None = None,
) -> tuple[Float[Tensor, "h w c"], Float[Tensor, "h w"]]:
    """Blend values front to back at every pixel: ``sum_i T_i alpha_i v_i`` and the accumulated alpha."""
    width, height = size
    low = (projected.means2d.detach() - projected.extents)[order]
    high = (projected.means2d.detach() + projected.extents)[order]
    rows = []
    for y in range(0, height, TILE):
        in_row = (low[:, 1] < y + TILE) & (high[:, 1] > y)
        row = []
        for x in range(0, width, TILE):
            inside = in_row & (low[:, 0] < x + TILE) & (high[:, 0] > x)
            chosen = order[inside if tiles is None else inside & tiles[y // TILE, x // TILE]]
            pixels = _pixel_centres(x, y, min(TILE, width - x), min(TILE, height - y), values)
            row.append(_blend_tile(projected, values, chosen, pixels, probe))
        rows.append(torch.cat(row, dim=1))
    image = torch.cat(rows)
    return image[..., :-1], image[..., -1]


def _pixel_centres(x: int, y: int, width: int, height: int, like: Tensor) -> Float[Tensor, "h w 2"]:
    ys = torch.arange(y, y + height, dtype=like.dtype, device=like.device) + 0.5
    xs = torch.arange(x, x + width, dtype=like.dtype, device=like.device) + 0.5
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1)


def _blend_tile(p: Projected, values: Tensor, chosen: Tensor, pixels: Tensor, probe: Tensor | None) -> Tensor:
    height, width = pixels.shape[:2]
    means2d = p.means2d[chosen][:, None]
    if probe is not None:
        means2d = _SumOfMagnitudes.apply(means2d.expand(-1, height * width, -1), probe[chosen])
    dx, dy = (means2d - pixels.flatten(0, 1)[None]).unbind(-1)
    a, b, c = p.conics[chosen].T[..., None]
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (p.opacities[chosen][:, None] * torch.exp(-sigma.clamp_min(0.0))).clamp_max(ALPHA_MAX)
    alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)
    after = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]]) if len(chosen) else after
    weights = torch.where(after > TRANSMITTANCE_MIN, alpha * before, 0.0)
    color = weights.T @ values[chosen]
    return torch.cat([color, weights.sum(0)[:, None]], dim=-1).unflatten(0, (height, width))


class _SumOfMagnitudes(torch.autograd.Function):
    """Identity whose backward also hands the probe the sum over pixels of absolute gradients."""

    @staticmethod
    def forward(ctx, means2d: Tensor, probe: Tensor) -> Tensor:
        return means2d.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.abs().sum(1)
