"""Cameras at working size, how deep they see, and what they have at points: what searches along rays share."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from moegs.data.scene import Scene
from moegs.render.camera import Camera, rays

MARGIN = 1.3  # depths searched go this much nearer and farther than the capture's own points


def small_camera(camera: Camera, size: int) -> Camera:
    """The camera with at most ``size`` pixels along its longer side."""
    scale = min(1.0, size / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


def depth_range(camera: Camera, scene: Scene) -> tuple[float, float]:
    """From the points in front of a camera, or the capture's bounds where there are too few."""
    z = scene.cloud.points @ camera.viewmat[2, :3] + camera.viewmat[2, 3]
    z = z[z > camera.near]
    if len(z) < 10:
        return scene.bounds
    near, far = torch.quantile(z[:: max(1, len(z) // 10_000)], torch.tensor([0.01, 0.99])).tolist()
    return near / MARGIN, far * MARGIN


def unit_rays(camera: Camera) -> tuple[Float[Tensor, "3"], Float[Tensor, "h w 3"]]:
    """Where a camera's rays begin, and how far they go for each unit of camera z."""
    ray = rays(camera)
    return ray[0, 0, :3], ray[..., 3:] / (ray[..., 3:] @ camera.viewmat[2, :3])[..., None]


def nearest_cameras(cameras: tuple[Camera, ...], n: int) -> Bool[Tensor, "c c"]:
    """For each camera a row that marks the ``n`` others whose centres are nearest."""
    centres = torch.stack([camera.centre for camera in cameras])
    apart = torch.cdist(centres, centres)
    apart.fill_diagonal_(torch.inf)
    nearest = apart.argsort(dim=1, stable=True)[:, :n]
    return torch.zeros_like(apart, dtype=torch.bool).scatter_(1, nearest, True).fill_diagonal_(False)


def look_up(
    camera: Camera, layers: Float[Tensor, "c h w"], points: Float[Tensor, "n d 3"], mode: str = "bilinear"
) -> tuple[Float[Tensor, "n d c"], Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """What a camera has at each point, whether it has the point in view (1 or 0), and the point's camera z."""
    at = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    z = at[..., 2].clamp_min(1e-6)
    x = (at[..., 0] / z * camera.K[0, 0] + camera.K[0, 2]) * 2 / camera.width - 1
    y = (at[..., 1] / z * camera.K[1, 1] + camera.K[1, 2]) * 2 / camera.height - 1
    inside = ((at[..., 2] > camera.near) & (x.abs() <= 1) & (y.abs() <= 1)).float()
    grid = torch.stack([x, y], dim=-1)[None]
    sampled = grid_sample(layers[None], grid, mode=mode, align_corners=False, padding_mode="border")[0]
    return sampled.permute(1, 2, 0), inside, z


def pictures(scene: Scene, index: int, camera: Camera, frames: list[int]) -> UInt8[Tensor, "m 3 h w"]:
    """What a camera saw at all moments; eight bits each, since a long clip on a large rig has many."""
    size = (camera.height, camera.width)
    seen = torch.empty(len(frames), 3, *size, dtype=torch.uint8)
    for moment, frame in enumerate(frames):
        image = scene.image(index, frame).permute(2, 0, 1)[None]
        small = image if image.shape[-2:] == size else interpolate(image, size, mode="area")
        seen[moment] = (small[0] * 255).round().clamp(0, 255)
    return seen
