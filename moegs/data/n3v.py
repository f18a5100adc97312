"""The layout of Neural 3D Video: ``camNN.mp4``, ``poses_bounds.npy`` (LLFF) and COLMAP points.

Row ``i`` of ``poses_bounds.npy`` belongs to the ``i``-th video in the order of their names. Its 17 numbers are a 3×5
matrix ``[R | t | (height, width, focal)]`` in row-major order and the near and far bound. The columns of ``R`` are the
camera's down, right and backwards axes in the world, ``t`` is its centre: camera→world in OpenCV axes is
``[R₁, R₀, −R₂]`` with centre ``t``. Intrinsics are given for an image of the declared height and width, with the
principal point in the centre, and are scaled to the size of the decoded video.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from moegs.data import colmap, video
from moegs.data.capture import Capture, check_rotation, find_models, need_models, pinhole
from moegs.data.findings import CaptureError, CaptureFormatError, Finding
from moegs.data.frames import FrameSource
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
    fps = sources[0].fps or 30.0
    return Capture(path, path / POSES, NAME, names, cameras, sources, bounds, HELD_OUT, models, fps)


def steps(path: Path) -> Iterator[Callable[[], object]]:
    """Parts of :func:`read` that can fail independently of each other, for the check of a capture."""
    yield partial(_check_rows, path / POSES)
    yield from (partial(video.probe, file) for file in videos(path))
    yield from (partial(colmap.read_points, folder) for folder in find_models(path).values())


def inspect(capture: Capture) -> Iterator[Finding]:
    """Time stamps of the videos, and the aspect ratio that the poses declare.

    Raises:
        CaptureFormatError: a video cannot be read.
    """
    stamps = [np.array(video.timestamps(source.path)) for source in capture.sources]
    for source, times in zip(capture.sources, stamps, strict=True):
        yield from _check_timing(source, times)
    rates = {round(float(1 / np.diff(times).mean()), 2) for times in stamps if len(times) > 1 and np.ptp(times) > 0}
    if len(rates) > 1:
        message = f"the cameras are not in step: {sorted(rates)} frames a second."
        yield Finding("error", str(capture.path), "frame rate", message)
    for index, (row, source) in enumerate(zip(read_poses(capture.calibration), capture.sources, strict=True)):
        declared, found = row[9] / row[4], source.width / source.height
        if abs(declared / found - 1) > 0.01:
            message = f"declares an aspect ratio of {declared:.3f}, the video has {found:.3f}; pixels are not square."
            yield Finding("warning", str(capture.calibration), f"row {index}, height, width", message)


def _check_timing(source: FrameSource, stamps: Float64[np.ndarray, "n"]) -> Iterator[Finding]:
    file, steps = str(source.path), np.diff(stamps)
    if len(stamps) != source.count:
        message = f"the container declares {source.count}, but holds {len(stamps)} with time stamps; copy it again."
        yield Finding("error", file, "frames", message)
    if (steps <= 0).any():
        message = f"frame {int(np.argmin(steps)) + 1} is not later than the one before it."
        yield Finding("error", file, "time stamps", message)
    elif len(steps) and np.abs(steps - np.median(steps)).max() > 0.1 * np.median(steps):
        uneven = int(np.abs(steps - np.median(steps)).argmax())
        message = f"uneven: {steps[uneven]:.4f} s before frame {uneven + 1}, mostly {np.median(steps):.4f} s."
        yield Finding("warning", file, "time stamps", message)


def _check_rows(path: Path) -> None:
    for index, row in enumerate(read_poses(path)):
        check_row(path, index, row)


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
    check_row(path, index, row)
    matrix, to_world = row[:15].reshape(3, 5), _to_world(row)
    height, width, focal = matrix[:, 4]
    fx, fy = focal * source.width / width, focal * source.height / height
    intrinsics = (fx, fy, source.width / 2, source.height / 2)
    size = (source.width, source.height)
    return pinhole(to_world.T, -to_world.T @ matrix[:, 3], intrinsics, size, float(row[15]))


def check_row(path: Path, index: int, row: Float64[np.ndarray, "17"]) -> None:
    """Raise :class:`CaptureError` unless the values of one row make a camera."""
    matrix, (near, far) = row[:15].reshape(3, 5), row[15:]
    height, width, focal = matrix[:, 4]
    if height < 1 or width < 1 or focal <= 0:
        message = f"expected positive numbers, got {height:g}, {width:g}, {focal:g}."
        raise CaptureError(path, f"row {index}, height, width, focal", message)
    if not 0 < near < far:
        raise CaptureError(path, f"row {index}, bounds", f"expected 0 < near < far, got {near:g} and {far:g}.")
    check_rotation(path, f"row {index}, rotation", _to_world(row))


def _to_world(row: Float64[np.ndarray, "17"]) -> Float64[np.ndarray, "3 3"]:
    down, right, backwards = row[:15].reshape(3, 5)[:, :3].T
    return np.stack([right, down, -backwards], axis=1)


def pose_row(camera: Camera, near: float, far: float) -> Float64[np.ndarray, "17"]:
    """The row of ``poses_bounds.npy`` for a camera: the inverse of :func:`camera` (the principal point is lost)."""
    to_world = camera.viewmat[:3, :3].double().numpy().T
    centre = -to_world @ camera.viewmat[:3, 3].double().numpy()
    size = np.array([camera.height, camera.width, float(camera.K[0, 0])])
    matrix = np.stack([to_world[:, 1], to_world[:, 0], -to_world[:, 2], centre, size], axis=1)
    return np.concatenate([matrix.reshape(-1), [near, far]])
