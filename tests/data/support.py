"""What the tests of the readers share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from moegs.data import PointCloud, Scene
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


def change_poses(capture: Path, change) -> None:
    """Rewrite ``poses_bounds.npy``: ``change`` gets the rows and changes them, or returns others."""
    rows = np.load(capture / "poses_bounds.npy", allow_pickle=False)
    changed = change(rows)
    np.save(capture / "poses_bounds.npy", rows if changed is None else changed, allow_pickle=False)
