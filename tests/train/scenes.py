"""A scene in memory: a few cameras around Gaussians that move, rendered by the reference backend."""

from __future__ import annotations

from functools import lru_cache

import torch

from moegs.data import Scene
from moegs.gaussians import Gaussians, PointCloud
from moegs.gaussians.harmonics import from_rgb
from moegs.render import Camera, rasterize

SIZE = (24, 20)


class MemoryFrames:
    """Stands in for the frame cache on disk."""

    def __init__(self, images: dict[tuple[int, int], torch.Tensor]):
        self.images = images

    def image(self, camera: int, frame: int) -> torch.Tensor:
        return self.images[camera, frame]


def moving(t: float) -> Gaussians:
    """Six coloured blobs; one swings, the rest stand."""
    g = torch.Generator().manual_seed(0)
    means = torch.rand(6, 3, generator=g) * torch.tensor([1.6, 1.2, 1.0]) - torch.tensor([0.8, 0.6, -2.0])
    means[0, 0] += 0.6 * torch.sin(torch.tensor(6.0 * t))
    rgb = torch.rand(6, 3, generator=g)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(6, 4)
    return Gaussians(means, torch.full((6,), 0.9), from_rgb(rgb)[:, None], quats, torch.full((6, 3), 0.22))


def rig_camera(i: int) -> Camera:
    viewmat = torch.eye(4)
    viewmat[0, 3] = 0.3 * (i - 1)
    k = torch.tensor([[22.0, 0, 12.0], [0, 22.0, 10.0], [0, 0, 1]])
    return Camera(viewmat, k, *SIZE, near=0.1, far=100.0)


@lru_cache
def small_scene(n_frames: int = 4) -> Scene:
    """Three cameras (0 held out), a few frames of 24×20, and a jittered point cloud."""
    cameras = tuple(rig_camera(i) for i in range(3))
    images = {
        (c, f): rasterize(moving(f / n_frames), camera, backend="reference").color.clamp(0, 1)
        for c, camera in enumerate(cameras)
        for f in range(n_frames)
    }
    g = torch.Generator().manual_seed(1)
    points = moving(0.0).means.repeat_interleave(8, 0) + 0.15 * torch.randn(48, 3, generator=g)
    cloud = PointCloud(points, torch.rand(48, 3, generator=g), None)
    return Scene(
        name="blobs", layout="n3v", cameras=cameras, camera_names=("cam00", "cam01", "cam02"), train=(1, 2), test=(0,),
        n_frames=n_frames, fps=30.0, cloud=cloud, frames=MemoryFrames(images), extent=1.0, bounds=(1.0, 4.0),
    )  # fmt: skip
