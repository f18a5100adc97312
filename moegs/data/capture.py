"""What every layout is read into before any frame is decoded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from moegs.data import colmap
from moegs.data.findings import CaptureError
from moegs.data.frames import FrameSource
from moegs.gaussians.cloud import PointCloud
from moegs.render.camera import Camera

NEAR_FRACTION = 0.2  # of a camera's near bound: what moves may come closer than anything stood in the first frame
ROTATION_TOLERANCE = 1e-3  # of the entries of R Rᵀ − 1


@dataclass(frozen=True, eq=False)
class Capture:
    """A multi-view clip as it lies on disk: headers and calibration, no pixels.

    Attributes:
        path: folder of the capture.
        calibration: the file that holds the poses, which messages name.
        layout: name of its layout.
        names: one name a camera, in order.
        cameras: calibrated for the size of the stored frames.
        sources: where each camera's frames come from.
        bounds: nearest and farthest depth over all cameras, world units.
        held_out: name of the camera that the field holds out for test in this layout.
        clouds: COLMAP model folders by zero-based frame index.
        fps: frames a second.
    """

    path: Path
    calibration: Path
    layout: str
    names: tuple[str, ...]
    cameras: tuple[Camera, ...]
    sources: tuple[FrameSource, ...]
    bounds: tuple[float, float]
    held_out: str
    clouds: Mapping[int, Path]
    fps: float


def pinhole(
    rotation: Float64[np.ndarray, "3 3"],
    translation: Float64[np.ndarray, "3"],
    intrinsics: tuple[float, float, float, float],
    size: tuple[int, int],
    near_bound: float,
) -> Camera:
    """A float32 camera from a world→camera rotation and translation, (fx, fy, cx, cy) in pixels and (width, height).

    The near plane is a fifth of ``near_bound``, the depth of the nearest thing this camera saw; there is no far plane.
    """
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, translation
    fx, fy, cx, cy = intrinsics
    k = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float32)
    return Camera(torch.tensor(viewmat, dtype=torch.float32), k, *size, near=NEAR_FRACTION * near_bound)


def check_rotation(path: Path, field: str, rotation: Float64[np.ndarray, "3 3"]) -> None:
    """Raise :class:`CaptureError` unless the matrix is a rotation: orthonormal and not a mirror."""
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not error <= ROTATION_TOLERANCE:
        raise CaptureError(path, field, f"the rotation is not orthonormal (off by {error:.3g}); calibrate again.")
    if np.linalg.det(rotation) < 0:
        raise CaptureError(path, field, "the rotation mirrors (determinant -1); are its columns in the right order?")


def find_models(path: Path) -> dict[int, Path]:
    """COLMAP models in a capture: the ``<i>`` of ``colmap_<i>/sparse/0`` → folder, else ``sparse/0`` as number 0."""
    models = {}
    for folder in path.glob("colmap_*"):
        if (found := re.fullmatch(r"colmap_(\d+)", folder.name)) and colmap.has_model(folder / "sparse" / "0"):
            models[int(found[1])] = folder / "sparse" / "0"
    if not models and colmap.has_model(path / "sparse" / "0"):
        models[0] = path / "sparse" / "0"
    return dict(sorted(models.items()))


def need_models(path: Path, models: Mapping[int, Path]) -> None:
    """Raise :class:`CaptureError` when a capture has no sparse model at all."""
    if not models:
        where = path / "colmap_0" / "sparse" / "0" / "points3D.bin"
        raise CaptureError(
            where, "file", "no sparse points; expected colmap_<frame>/sparse/0 or sparse/0, .bin or .txt."
        )


def read_cloud(models: Mapping[int, Path], start: int, count: int) -> PointCloud:
    """The points of a range of frames.

    Takes every model whose frame lies in the range; points then carry times, unless they all belong to the range's
    first frame. When no model lies in the range, the last one before it stands in for its first frame (most of a scene
    stands still), or the first one after it.
    """
    chosen = [frame for frame in models if start <= frame < start + count]
    if not chosen:
        before = [frame for frame in models if frame < start]
        return _cloud(colmap.read_points(models[max(before) if before else min(models)]), None)
    if chosen == [start]:
        return _cloud(colmap.read_points(models[start]), None)
    parts = [_cloud(colmap.read_points(models[frame]), (frame - start) / count) for frame in chosen]
    times = torch.cat([part.times for part in parts if part.times is not None])
    return PointCloud(torch.cat([p.points for p in parts]), torch.cat([p.colors for p in parts]), times)


def _cloud(points: colmap.ColmapPoints, time: float | None) -> PointCloud:
    times = None if time is None else torch.full((len(points),), time, dtype=torch.float32)
    colors = torch.from_numpy(points.rgb.astype(np.float32) / 255.0)
    return PointCloud(torch.from_numpy(points.xyz.astype(np.float32)), colors, times)
