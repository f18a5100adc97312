"""What the tests of the readers share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moegs.data import FrameStore, PointCloud, Scene
from moegs.data.depth import read_depth
from moegs.render.camera import Camera


def project(camera: Camera, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]:
    """Pixels and camera z."""
    local = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = local @ camera.K.T
    return pixels[:, :2] / pixels[:, 2:], local[:, 2]


def color_difference(scene: Scene, camera: int, cloud: PointCloud, shift: float = 0.0) -> float:
    """Median absolute difference between the points' colours and the first frame under them, in 255ths."""
    view = scene.view(camera, 0)
    pixels, z = project(view.camera, cloud.points)
    column, row = (pixels + shift).floor().long().T
    inside = (z > 0) & (column >= 0) & (row >= 0) & (column < view.camera.width) & (row < view.camera.height)
    assert inside.float().mean() > 0.5
    seen = view.image[row[inside], column[inside]]
    return 255 * float((seen - cloud.colors[inside]).abs().median())


def surface_error(folder: Path, scene: Scene, points: Float[Tensor, "n 3"], frame: int) -> Float[Tensor, "n"]:
    """Relative distance of every point from the nearest surface along the ray of any training camera."""
    errors = []
    for index in scene.train:
        camera = scene.cameras[index]
        pixel, z = project(camera, points)
        inside = ((pixel >= 0) & (pixel < torch.tensor([camera.width, camera.height]))).all(-1) & (z > 0)
        column, row = pixel.long().clamp_min(0).T
        depth = read_depth(folder, scene.camera_names[index], frame)
        true = depth[row.clamp_max(camera.height - 1), column.clamp_max(camera.width - 1)]
        errors.append(((z - true).abs() / true).where(inside, torch.tensor(torch.inf)))
    return torch.stack(errors).amin(0)


class Blind(FrameStore):
    """Frames without those of the held-out camera."""

    def pixels(self, camera, frame):
        assert camera != 0, "looked at the held-out camera"
        return super().pixels(camera, frame)


def change_poses(capture: Path, change) -> None:
    """Rewrite ``poses_bounds.npy``: ``change`` gets the rows and changes them, or returns others."""
    rows = np.load(capture / "poses_bounds.npy", allow_pickle=False)
    changed = change(rows)
    np.save(capture / "poses_bounds.npy", rows if changed is None else changed, allow_pickle=False)
