"""The layout of the Technicolor light fields: PNG frames, ``cameras_parameters.txt`` and COLMAP points.

Frames are ``<Scene>_undist_<frame>_<camera>.png``. ``cameras_parameters.txt`` has a header line, then one row a camera:
focal, cx, cy, aspect ratio and skew (both ignored), quaternion wxyz and translation, world→camera, in pixels of the
stored images, the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from moegs.data import colmap
from moegs.data.capture import Capture, find_models, need_models, pinhole
from moegs.data.findings import CaptureError, CaptureFormatError, Finding
from moegs.render.camera import Camera

NAME = "technicolor"
HELD_OUT = "cam10"
PARAMETERS = "cameras_parameters.txt"
FPS = 30.0  # the rig's rate; nothing in a capture tells it
_FRAME = re.compile(r"(?P<scene>.+)_(?P<frame>\d{5})_(?P<camera>\d{2})\.png")
_COLUMNS = 12


@dataclass(frozen=True)
class ImageSource:
    """The frames of one camera, one image file each.

    Attributes:
        name: name of the camera.
        path: the first frame, which stands for the camera in messages.
        files: the frames in order.
        width: width in pixels.
        height: height in pixels.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    width: int
    height: int

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.files)

    def frames(self, start: int, count: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Read ``count`` frames from ``start``.

        Raises:
            CaptureError: an image has another size than the camera's first.
            CaptureFormatError: an image is damaged.
        """
        for file in self.files[start : start + count]:
            yield read_image(file, (self.width, self.height))

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a file does: names, sizes and modification times."""
        stats = [f"{file.resolve()}|{file.stat().st_size}|{file.stat().st_mtime_ns}" for file in self.files]
        return hashlib.sha256("\n".join(stats).encode()).hexdigest()


def read_image(path: Path, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Read an 8-bit image as RGB; with ``size`` (width, height), insist on it.

    Raises:
        CaptureError: it has another size.
        CaptureFormatError: it is damaged or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA", "L", "P"):
                raise CaptureFormatError(
                    path, "mode", f"expected 8 bits a channel, got {image.mode}; convert it to RGB."
                )
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, CaptureFormatError):
            raise
        raise CaptureFormatError(path, "image", f"cannot be decoded ({error}); copy or repair it.") from None
    if size is not None and (pixels.shape[1], pixels.shape[0]) != size:
        message = f"expected {size[0]}x{size[1]}, got {pixels.shape[1]}x{pixels.shape[0]}."
        raise CaptureError(path, "size", message)
    return pixels


def detect(path: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (path / PARAMETERS).exists() or any(_FRAME.fullmatch(file.name) for file in path.glob("*_undist_*.png"))


def read(path: Path) -> Capture:
    """Read calibration, and one image header a camera.

    Raises:
        CaptureError: a frame, row or point is missing, or a value is not usable.
        CaptureFormatError: a file is damaged.
    """
    rows = read_parameters(path / PARAMETERS)
    numbers, files = frame_files(path)
    match_rows(path, rows, files)
    sources = tuple(_source(camera, files[camera]) for camera in sorted(files))
    models = _by_index(find_models(path), numbers)
    need_models(path, models)
    points = colmap.read_points(next(iter(models.values()))).xyz
    cameras, bounds = [], []
    for index, row in enumerate(rows):
        bounds.append(depth_bounds(row, points))
        cameras.append(camera(path / PARAMETERS, index, row, sources[index], bounds[-1][0]))
    near_far = min(near for near, _ in bounds), max(far for _, far in bounds)
    names = tuple(source.name for source in sources)
    calibration = path / PARAMETERS
    return Capture(path, calibration, NAME, names, tuple(cameras), sources, near_far, HELD_OUT, models, FPS)


def steps(path: Path) -> Iterator[Callable[[], object]]:
    """Parts of :func:`read` that can fail independently of each other, for the check of a capture."""
    yield partial(_check_rows, path / PARAMETERS)
    yield partial(frame_files, path)
    yield from (partial(colmap.read_points, folder) for folder in find_models(path).values())


def inspect(capture: Capture) -> Iterator[Finding]:
    """Gaps in the numbering of the frames."""
    numbers = frame_files(capture.path)[0]
    for before, after in pairwise(numbers):
        if after != before + 1:
            message = f"frames {before + 1} to {after - 1} are missing; the clip would jump."
            yield Finding("warning", str(capture.path), "frames", message)


def frame_files(path: Path) -> tuple[list[int], dict[int, list[Path]]]:
    """Frame numbers in order, and each camera's files in that order.

    Raises:
        CaptureError: there are no frames, more than one scene, or a camera lacks a frame that another has.
    """
    found = [(match, file) for file in sorted(path.glob("*.png")) if (match := _FRAME.fullmatch(file.name))]
    scenes = sorted({match["scene"] for match, _ in found})
    if len(scenes) != 1:
        what = f"frames of {len(scenes)} scenes {scenes}"
        raise CaptureError(path, "frames", f"expected <Scene>_undist_<frame>_<camera>.png of one scene, found {what}.")
    table = {(int(match["camera"]), int(match["frame"])): file for match, file in found}
    cameras = sorted({camera for camera, _ in table})
    numbers = sorted({frame for _, frame in table})
    for camera in cameras:
        for frame in numbers:
            if (camera, frame) not in table:
                missing = path / f"{scenes[0]}_{frame:05d}_{camera:02d}.png"
                raise CaptureError(missing, "file", "no such frame, though other cameras have it; copy or repair it.")
    return numbers, {camera: [table[camera, frame] for frame in numbers] for camera in cameras}


def read_parameters(path: Path) -> Float64[np.ndarray, "n 12"]:
    """Read ``cameras_parameters.txt``; every value is finite.

    Raises:
        CaptureError: the file is missing or empty, or a row has another length or a value that is not finite.
        CaptureFormatError: a field is not a number.
    """
    if not path.is_file():
        raise CaptureError(path, "file", "no such file; expected a header line and one row of 12 numbers a camera.")
    lines = [
        (n, line.split()) for n, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1) if line.strip()
    ]
    if lines and _is_header(lines[0][1]):
        lines = lines[1:]
    if not lines:
        raise CaptureError(path, "rows", "expected one row a camera, found none.")
    return np.stack([_row(path, number, fields) for number, fields in lines])


def match_rows(path: Path, rows: Float64[np.ndarray, "n 12"], files: Mapping[int, list[Path]]) -> None:
    """Raise :class:`CaptureError` unless the frames' cameras are exactly the rows of the parameters."""
    expected, found = set(range(len(rows))), set(files)
    if expected == found:
        return
    missing = ", ".join(f"*_{camera:02d}.png" for camera in sorted(expected - found))
    extra = ", ".join(f"*_{camera:02d}.png" for camera in sorted(found - expected))
    message = (
        f"{len(rows)} rows do not match the frames (missing: {missing or 'none'}; without a row: {extra or 'none'})."
    )
    raise CaptureError(path / PARAMETERS, "rows", message)


def camera(path: Path, index: int, row: Float64[np.ndarray, "12"], source: ImageSource, near_bound: float) -> Camera:
    """The camera of one row, with its off-centre principal point.

    Raises:
        CaptureError: the focal length or the quaternion is not usable.
    """
    check_row(path, index, row)
    intrinsics = (row[0], row[0], row[1], row[2])
    return pinhole(colmap.rotation(row[5:9]), row[9:12], intrinsics, (source.width, source.height), near_bound)


def check_row(path: Path, index: int, row: Float64[np.ndarray, "12"]) -> None:
    """Raise :class:`CaptureError` unless the values of one row make a camera."""
    if row[0] <= 0:
        raise CaptureError(path, f"row {index}, focal", f"expected a positive number, got {row[0]:g}.")
    norm = float(np.linalg.norm(row[5:9]))
    if abs(norm - 1) > 1e-2:
        raise CaptureError(path, f"row {index}, quaternion", f"expected unit length, got {norm:g}.")


def _check_rows(path: Path) -> None:
    for index, row in enumerate(read_parameters(path)):
        check_row(path, index, row)


def depth_bounds(row: Float64[np.ndarray, "12"], points: Float64[np.ndarray, "n 3"]) -> tuple[float, float]:
    """Nearest and farthest depth of the points before a camera, as LLFF takes them: percentiles 0.1 and 99.9, ±10 %."""
    depths = points @ colmap.rotation(row[5:9])[2] + row[11]
    depths = depths[depths > 0]
    if len(depths) == 0:
        return 0.05, 100.0  # nothing is known; the check of the capture says so
    return 0.9 * float(np.percentile(depths, 0.1)), 1.1 * float(np.percentile(depths, 99.9))


def _source(index: int, files: list[Path]) -> ImageSource:
    height, width, _ = read_image(files[0]).shape
    return ImageSource(f"cam{index:02d}", files[0], tuple(files), width, height)


def _by_index(models: Mapping[int, Path], numbers: list[int]) -> dict[int, Path]:
    """Models by frame index: ``colmap_<i>`` names a frame by the number in its file name, or else by its index."""
    position = {number: index for index, number in enumerate(numbers)}
    return {position.get(number, number): folder for number, folder in models.items()}


def _is_header(fields: list[str]) -> bool:
    try:
        float(fields[0])
    except ValueError:
        return True
    return False


def _row(path: Path, number: int, fields: list[str]) -> Float64[np.ndarray, "12"]:
    if len(fields) != _COLUMNS:
        raise CaptureError(path, f"line {number}", f"expected {_COLUMNS} numbers, got {len(fields)}.")
    try:
        values = np.array([float(value) for value in fields])
    except ValueError as error:
        raise CaptureFormatError(path, f"line {number}", f"expected numbers: {error}.") from None
    if not np.isfinite(values).all():
        raise CaptureError(path, f"line {number}", f"expected finite numbers, got {' '.join(fields)}.")
    return values
