"""The layout of Neural 3D Video: ``camNN.mp4``, ``poses_bounds.npy`` (LLFF) and COLMAP points.

Row ``i`` of ``poses_bounds.npy`` belongs to the ``i``-th video in the order of their names. Its 17 numbers are a 3×5
matrix ``[R | t | (height, width, focal)]`` in row-major order and the near and far bound. The columns of ``R`` are the
camera's down, right and backwards axes in the world, ``t`` is its centre: camera→world in OpenCV axes is
``[R₁, R₀, −R₂]`` with centre ``t``. Intrinsics are given for an image of the declared height and width, with the
principal point in the centre, and are scaled to the size of the decoded video.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from moegs.data import video
from moegs.data.capture import Capture, check_rotation, find_models, need_models, pinhole
from moegs.data.findings import CaptureError, CaptureFormatError
from moegs.data.video import VideoSource
from moegs.render.camera import Camera

NAME = "n3v"
HELD_OUT = "cam00"
POSES = "poses_bounds.npy"


def detect(path: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (path / POSES).exists() or bool(videos(path))


def videos(path: Path) -> list[Path]:
    """The videos of a capture in the order of the rows of its poses."""
    return sorted(path.glob("cam*.mp4"))


def read(path: Path) -> Capture:
    """Read calibration and video headers.

    Raises:
        CaptureError: a video, row or point is missing, or a value is not usable.
        CaptureFormatError: a file is damaged.
    """
    rows, files = read_poses(path / POSES), videos(path)
    match_rows(path, rows, files)
    sources = tuple(video.probe(file) for file in files)
    cameras = tuple(camera(path / POSES, i, row, sources[i]) for i, row in enumerate(rows))
    models = find_models(path)
    need_models(path, models)
    bounds = float(rows[:, 15].min()), float(rows[:, 16].max())
    names = tuple(source.name for source in sources)
    return Capture(path, NAME, names, cameras, sources, bounds, HELD_OUT, models, sources[0].fps or 30.0)


def read_poses(path: Path) -> Float64[np.ndarray, "n 17"]:
    """Read ``poses_bounds.npy``; every value is finite.

    Raises:
        CaptureError: the file is missing, has another shape, or holds a value that is not finite.
        CaptureFormatError: it is not an array of floats, is cut short, or holds Python objects.
    """
    if not path.is_file():
        raise CaptureError(path, "file", "no such file; expected one row of 17 numbers a camera (LLFF).")
    try:
        # Mapped, because numpy would allocate whatever shape the header claims before it looks at the file's size.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CaptureFormatError(path, "array", f"not a readable .npy file ({error}).") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise CaptureFormatError(path, "dtype", f"expected floats, got {getattr(array, 'dtype', 'an archive')}.")
    if array.ndim != 2 or array.shape[1] != 17 or array.shape[0] < 1:
        raise CaptureError(path, "shape", f"expected [cameras, 17], got {list(array.shape)}.")
    rows = np.array(array, np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise CaptureError(path, f"row {row}, column {column}", f"expected a finite number, got {rows[row, column]}.")
    return rows


def match_rows(path: Path, rows: Float64[np.ndarray, "n 17"], files: list[Path]) -> None:
    """Raise :class:`CaptureError` unless there is one video for each row of the poses."""
    if len(rows) == len(files):
        return
    found = f"{len(rows)} rows, but {len(files)} videos cam*.mp4 beside it"
    if len(files) < len(rows) and (missing := _gaps(files, len(rows))):
        found += f" (missing: {', '.join(missing)})"
    raise CaptureError(path / POSES, "rows", f"{found}; to leave a camera out, remove both its video and its row.")


def _gaps(files: list[Path], count: int) -> list[str]:
    numbers = {int(found[1]) for file in files if (found := re.fullmatch(r"cam(\d+)", file.stem))}
    return [f"cam{i:02d}.mp4" for i in range(count) if i not in numbers]


def camera(path: Path, index: int, row: Float64[np.ndarray, "17"], source: VideoSource) -> Camera:
    """The camera of one row, for the decoded size of its video.

    Raises:
        CaptureError: the rotation, the size, the focal length or the bounds are not usable.
    """
    matrix, (near, far) = row[:15].reshape(3, 5), row[15:]
    height, width, focal = matrix[:, 4]
    if height < 1 or width < 1 or focal <= 0:
        message = f"expected positive numbers, got {height:g}, {width:g}, {focal:g}."
        raise CaptureError(path, f"row {index}, height, width, focal", message)
    if not 0 < near < far:
        raise CaptureError(path, f"row {index}, bounds", f"expected 0 < near < far, got {near:g} and {far:g}.")
    to_world = np.stack([matrix[:, 1], matrix[:, 0], -matrix[:, 2]], axis=1)
    check_rotation(path, f"row {index}, rotation", to_world)
    fx, fy = focal * source.width / width, focal * source.height / height
    intrinsics = (fx, fy, source.width / 2, source.height / 2)
    return pinhole(to_world.T, -to_world.T @ matrix[:, 3], intrinsics, (source.width, source.height), near)


def pose_row(camera: Camera, near: float, far: float) -> Float64[np.ndarray, "17"]:
    """The row of ``poses_bounds.npy`` for a camera: the inverse of :func:`camera` (the principal point is lost)."""
    to_world = camera.viewmat[:3, :3].double().numpy().T
    centre = -to_world @ camera.viewmat[:3, 3].double().numpy()
    size = np.array([camera.height, camera.width, float(camera.K[0, 0])])
    matrix = np.stack([to_world[:, 1], to_world[:, 0], -to_world[:, 2], centre, size], axis=1)
    return np.concatenate([matrix.reshape(-1), [near, far]])
