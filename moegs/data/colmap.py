"""COLMAP sparse models, binary and text, read strictly and written so that COLMAP's own readers accept them.

Format: https://colmap.github.io/format.html. Poses are world→camera, OpenCV axes, quaternions wxyz; COLMAP's pixel
coordinates have the centre of the first pixel at (0.5, 0.5), as ours do. No count in a file is believed before the size
of the file agrees with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from moegs.data.findings import CaptureError, CaptureFormatError
from moegs.io import atomic_write

MODELS = {  # id: name, number of parameters
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_MODEL_IDS = {name: (number, count) for number, (name, count) in MODELS.items()}
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_IMAGE = struct.Struct("<i7di")
_CAMERA = struct.Struct("<iiQQ")
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics: COLMAP's model name, image size in pixels, and the model's parameters."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """One posed image: file name, camera id, world→camera quaternion (wxyz) and translation.

    ``xys`` are the observed pixels ``[k, 2]`` and ``point_ids`` the points they belong to (-1: none), ``[k]``.
    """

    name: str
    camera_id: int
    qvec: Float64[np.ndarray, "4"]
    tvec: Float64[np.ndarray, "3"]
    xys: Float64[np.ndarray, "k 2"] = field(default_factory=lambda: np.zeros((0, 2)))
    point_ids: Int64[np.ndarray, "k"] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class ColmapPoints:
    """Points in the order of the file: ids, positions (world units), 8-bit colours, reprojection errors (pixels)."""

    ids: Int64[np.ndarray, "n"]
    xyz: Float64[np.ndarray, "n 3"]
    rgb: UInt8[np.ndarray, "n 3"]
    errors: Float64[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.ids)


def read_points(folder: str | Path) -> ColmapPoints:
    """Read ``points3D.bin``, or ``points3D.txt`` where there is none.

    Raises:
        CaptureError: neither exists, there are no points, or a position is not finite.
        CaptureFormatError: the file is not what its name says, or its counts and its size disagree.
    """
    path = _member(folder, "points3D")
    points = _points_binary(path) if path.suffix == ".bin" else _points_text(path)
    if len(points) == 0:
        raise CaptureError(path, "points", "expected at least one point, found none; reconstruct the scene again.")
    if not np.isfinite(points.xyz).all():
        row = int(np.flatnonzero(~np.isfinite(points.xyz).all(1))[0])
        raise CaptureError(
            path, "xyz", f"point {points.ids[row]} (entry {row}) is not finite: {points.xyz[row].tolist()}."
        )
    return points


def read_images(folder: str | Path) -> dict[int, ColmapImage]:
    """Read ``images.bin``, or ``images.txt`` where there is none: image id → posed image.

    Raises:
        CaptureError: neither exists.
        CaptureFormatError: the file is not what its name says, or its counts and its size disagree.
    """
    path = _member(folder, "images")
    return _unique(path, _images_binary(path) if path.suffix == ".bin" else _images_text(path))


def read_cameras(folder: str | Path) -> dict[int, ColmapCamera]:
    """Read ``cameras.bin``, or ``cameras.txt`` where there is none: camera id → intrinsics.

    Raises:
        CaptureError: neither exists.
        CaptureFormatError: the file is not what its name says, or its counts and its size disagree.
    """
    path = _member(folder, "cameras")
    return _unique(path, _cameras_binary(path) if path.suffix == ".bin" else _cameras_text(path))


def has_model(folder: str | Path) -> bool:
    """Whether the folder holds points, binary or text."""
    return any((Path(folder) / f"points3D{suffix}").is_file() for suffix in (".bin", ".txt"))


def write_model(
    folder: str | Path,
    cameras: dict[int, ColmapCamera],
    images: dict[int, ColmapImage],
    points: ColmapPoints,
) -> None:
    """Write ``cameras.bin``, ``images.bin`` and ``points3D.bin``; tracks follow from the images' observations."""
    folder = Path(folder)
    with atomic_write(folder / "cameras.bin") as file:
        file.write(_COUNT.pack(len(cameras)) + b"".join(_pack_camera(i, c) for i, c in cameras.items()))
    with atomic_write(folder / "images.bin") as file:
        file.write(_COUNT.pack(len(images)) + b"".join(_pack_image(i, image) for i, image in images.items()))
    tracks = _tracks(images)
    with atomic_write(folder / "points3D.bin") as file:
        file.write(_COUNT.pack(len(points)))
        for row, number in enumerate(points.ids.tolist()):
            track = tracks.get(number, [])
            file.write(
                struct.pack("<Q3d3BdQ", number, *points.xyz[row], *points.rgb[row], points.errors[row], len(track))
            )
            file.write(np.array(track, "<i4").tobytes())


def _pack_camera(number: int, camera: ColmapCamera) -> bytes:
    fields = _CAMERA.pack(number, _MODEL_IDS[camera.model][0], camera.width, camera.height)
    return fields + struct.pack(f"<{len(camera.params)}d", *camera.params)


def _pack_image(number: int, image: ColmapImage) -> bytes:
    observations = np.zeros(len(image.xys), [("xy", "<f8", 2), ("id", "<i8")])
    observations["xy"], observations["id"] = image.xys, image.point_ids
    head = _IMAGE.pack(number, *image.qvec, *image.tvec, image.camera_id)
    return head + image.name.encode() + b"\0" + _COUNT.pack(len(observations)) + observations.tobytes()


def _tracks(images: dict[int, ColmapImage]) -> dict[int, list[tuple[int, int]]]:
    tracks: dict[int, list[tuple[int, int]]] = {}
    for number, image in images.items():
        for index, point in enumerate(image.point_ids.tolist()):
            tracks.setdefault(point, []).append((number, index))
    return tracks


def _member(folder: str | Path, stem: str) -> Path:
    for suffix in (".bin", ".txt"):
        if (path := Path(folder) / f"{stem}{suffix}").is_file():
            return path
    raise CaptureError(Path(folder) / f"{stem}.bin", "file", f"expected {stem}.bin or {stem}.txt, found neither.")


def _unique(path: Path, entries: Iterable[tuple[int, object]]) -> dict:
    table: dict = {}
    for number, entry in entries:
        if number in table:
            raise CaptureFormatError(path, "id", f"{number} occurs twice.")
        table[number] = entry
    return table


class _Bytes:
    """A cursor over a file that never reads past its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def count(self, what: str, smallest: int) -> int:
        """A count of entries of at least ``smallest`` bytes, which must fit into the rest of the file."""
        (count,) = self.unpack(_COUNT, what)
        if count * smallest > len(self.data) - self.at:
            left = len(self.data) - self.at
            message = f"{count} entries of at least {smallest} bytes announced, but only {left} bytes are left"
            raise CaptureFormatError(self.path, what, f"{message}; the file is cut short or damaged.")
        return count

    def unpack(self, layout: struct.Struct, what: str) -> tuple:
        return layout.unpack(self.take(layout.size, what))

    def take(self, size: int, what: str) -> bytes:
        if size > len(self.data) - self.at:
            raise CaptureFormatError(
                self.path, what, f"the file ends after {len(self.data)} bytes, in the middle of it."
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def name(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise CaptureFormatError(self.path, "name", "an image name has no end; the file is cut short or damaged.")
        raw, self.at = self.data[self.at : end], end + 1
        return raw.decode("utf-8", "replace")

    def end(self) -> None:
        if self.at != len(self.data):
            raise CaptureFormatError(self.path, "size", f"{len(self.data) - self.at} bytes left after the last entry.")


def _points_binary(path: Path) -> ColmapPoints:
    source = _Bytes(path)
    count = source.count("points", _POINT.itemsize)
    starts = np.empty(count, np.int64)
    for row in range(count):
        starts[row] = source.at
        source.take(_POINT.itemsize - _COUNT.size, f"point {row}")
        source.take(8 * source.count(f"track of point {row}", 8), f"track of point {row}")
    source.end()
    raw = np.frombuffer(source.data, np.uint8)[starts[:, None] + np.arange(_POINT.itemsize)]
    rows = np.ascontiguousarray(raw).view(_POINT)[:, 0] if count else np.zeros(0, _POINT)
    return ColmapPoints(rows["id"].astype(np.int64), rows["xyz"].copy(), rows["rgb"].copy(), rows["error"].copy())


def _images_binary(path: Path) -> Iterator[tuple[int, ColmapImage]]:
    source = _Bytes(path)
    observation = np.dtype([("xy", "<f8", 2), ("id", "<i8")])
    for row in range(source.count("images", _IMAGE.size + 1 + _COUNT.size)):
        number, *pose, camera = source.unpack(_IMAGE, f"image {row}")
        name = source.name()
        count = source.count(f"observations of {name}", observation.itemsize)
        seen = np.frombuffer(source.take(count * observation.itemsize, f"observations of {name}"), observation)
        yield number, ColmapImage(name, camera, np.array(pose[:4]), np.array(pose[4:]), seen["xy"], seen["id"])
    source.end()


def _cameras_binary(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    source = _Bytes(path)
    for row in range(source.count("cameras", _CAMERA.size + 3 * 8)):
        number, model, width, height = source.unpack(_CAMERA, f"camera {row}")
        if model not in MODELS:
            raise CaptureFormatError(path, f"model of camera {number}", f"expected 0 to {max(MODELS)}, got {model}.")
        name, count = MODELS[model]
        params = source.unpack(struct.Struct(f"<{count}d"), f"parameters of camera {number}")
        yield number, ColmapCamera(name, width, height, params)
    source.end()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise CaptureFormatError(path, "text", "not a text file; is this a .bin file with another name?") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("#"):
            yield number, line


def _fields(path: Path, number: int, line: str, at_least: int) -> list[str]:
    fields = line.split()
    if len(fields) < at_least:
        raise CaptureFormatError(path, f"line {number}", f"expected at least {at_least} fields, got {len(fields)}.")
    return fields


def _numbers(path: Path, number: int, fields: list[str], kind: type = float) -> list:
    try:
        return [kind(value) for value in fields]
    except ValueError as error:
        raise CaptureFormatError(path, f"line {number}", f"expected numbers: {error}.") from None


def _points_text(path: Path) -> ColmapPoints:
    rows = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        fields = _fields(path, number, line, 8)
        identity, *rgb = _numbers(path, number, [fields[0], *fields[4:7]], int)
        if not all(0 <= value <= 255 for value in rgb):
            raise CaptureFormatError(path, f"line {number}", f"expected colours from 0 to 255, got {rgb}.")
        rows.append((identity, _numbers(path, number, fields[1:4]), rgb, _numbers(path, number, fields[7:8])[0]))
    ids, xyz, colors, errors = zip(*rows, strict=True) if rows else ((), np.zeros((0, 3)), np.zeros((0, 3)), ())
    return ColmapPoints(
        np.array(ids, np.int64), np.array(xyz, float), np.array(colors, np.uint8), np.array(errors, float)
    )


def _images_text(path: Path) -> Iterator[tuple[int, ColmapImage]]:
    lines = _lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        fields = _fields(path, number, line, 10)
        pose = np.array(_numbers(path, number, fields[1:8]))
        identity, camera = _numbers(path, number, [fields[0], fields[8]], int)
        number, second = next(lines, (number + 1, ""))  # the observations, which may be an empty line
        values = _numbers(path, number, second.split())
        if len(values) % 3:
            raise CaptureFormatError(path, f"line {number}", f"expected triples x y id, got {len(values)} numbers.")
        seen = np.array(values).reshape(-1, 3)
        name = line.split(maxsplit=9)[9].strip()
        yield identity, ColmapImage(name, camera, pose[:4], pose[4:], seen[:, :2], seen[:, 2].astype(np.int64))


def _cameras_text(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        fields = _fields(path, number, line, 4)
        if fields[1] not in _MODEL_IDS:
            raise CaptureFormatError(path, f"line {number}", f"unknown camera model {fields[1]!r}.")
        identity, width, height = _numbers(path, number, [fields[0], *fields[2:4]], int)
        params = tuple(_numbers(path, number, fields[4:]))
        if len(params) != _MODEL_IDS[fields[1]][1]:
            expected = _MODEL_IDS[fields[1]][1]
            raise CaptureFormatError(
                path, f"line {number}", f"{fields[1]} has {expected} parameters, got {len(params)}."
            )
        yield identity, ColmapCamera(fields[1], width, height, params)


def rotation(qvec: Float64[np.ndarray, "4"]) -> Float64[np.ndarray, "3 3"]:
    """World→camera rotation of a quaternion (wxyz), which is normalised first."""
    w, x, y, z = np.asarray(qvec) / np.linalg.norm(qvec)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4"]:
    """Unit quaternion (wxyz, w ≥ 0) of a rotation: the eigenvector of Bar-Itzhack's symmetric matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    # Entries pair up as in K = 1/3 [[…]]; the eigenvector of the largest eigenvalue is the quaternion (x, y, z, w).
    k = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z]) * (1.0 if w >= 0 else -1.0)
