"""Strict binary PLY files with one element, ``vertex``, whose properties are all float32.

This is the container that 3D Gaussian splatting and its dynamic descendants write. Everything a header promises is held
against the size of the file before memory is asked for, so a forged count costs nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moegs.errors import FormatError, ShapeError
from moegs.io import atomic_write

HEADER_LIMIT = 1 << 20  # bytes; a key-frame model with 36 key-frames needs about 7000
_FORMAT = "format binary_little_endian 1.0"
_COUNT = re.compile(r"element vertex ([0-9]{1,15})")
_PROPERTY = re.compile(r"property (float|float32) ([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Header:
    """What a PLY header says: number of vertices, names of the float properties in file order, bytes it takes."""

    count: int
    names: tuple[str, ...]
    size: int


def read_header(path: str | Path) -> Header:
    """Parse a header and check that the file is exactly as long as it says.

    Raises:
        FormatError: the file is missing, not a binary little-endian PLY of float vertices, cut short or too long.
    """
    path = Path(path)
    lines, size = _header_lines(path)
    header = Header(*_parse(path, lines), size)
    expected, found = size + 4 * header.count * len(header.names), path.stat().st_size
    if expected != found:
        what = f"header of {size} bytes, {header.count} vertices of {len(header.names)} float properties"
        raise FormatError(f"{path}: expected {expected} bytes ({what}), the file has {found}; write it again.")
    return header


def read_vertices(path: str | Path) -> dict[str, np.ndarray]:
    """Read every property as a float32 column ``[n]``, in file order.

    Raises:
        FormatError: as :func:`read_header`, or a value is not finite.
    """
    path = Path(path)
    header = read_header(path)
    table = np.fromfile(path, dtype="<f4", offset=header.size, count=header.count * len(header.names))
    if table.size != header.count * len(header.names):
        raise FormatError(f"{path}: the file became shorter while it was read.")
    table = table.reshape(header.count, len(header.names))
    _check_finite(path, table, header.names)
    return {name: table[:, i] for i, name in enumerate(header.names)}


def write_vertices(path: str | Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write float32 columns of equal length as one vertex element, in the mapping's order. Atomic.

    Raises:
        ShapeError: columns differ in length, are not one-dimensional, or there are none.
        FormatError: a value is not finite.
    """
    shapes = {name: np.shape(value) for name, value in columns.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ShapeError(f"{path}: expected columns of one equal length, got {shapes}.")
    table = np.stack([np.asarray(value, dtype="<f4") for value in columns.values()], axis=1)
    _check_finite(Path(path), table, tuple(columns))
    lines = ["ply", _FORMAT, f"element vertex {len(table)}", *(f"property float {name}" for name in columns)]
    with atomic_write(path) as file:
        file.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii"))
        file.write(np.ascontiguousarray(table).tobytes())


def expect_names(path: str | Path, found: Mapping[str, object] | tuple[str, ...], expected: list[str]) -> None:
    """Check that a file has exactly the expected properties, in any order.

    Raises:
        FormatError: one is missing or too many; the message names it.
    """
    if missing := [name for name in expected if name not in found]:
        raise FormatError(f"{path}: property {missing[0]!r} is missing ({len(missing)} of {len(expected)} are).")
    if extra := sorted(set(found) - set(expected)):
        raise FormatError(f"{path}: property {extra[0]!r} is not known here; expected {len(expected)} properties.")


def _header_lines(path: Path) -> tuple[list[str], int]:
    try:
        with open(path, "rb") as file:
            start = file.read(HEADER_LIMIT)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None
    if start.startswith(b"ply\r"):
        raise FormatError(f"{path}: header lines end in CR; the file was converted as text, which breaks binary data.")
    if not start.startswith(b"ply\n"):
        raise FormatError(f"{path}: expected a PLY file that begins with 'ply', got {start[:8]!r}.")
    end = start.find(b"\nend_header\n")
    if end < 0:
        raise FormatError(
            f"{path}: the header has no 'end_header' line within {len(start)} bytes; the file is cut short."
        )
    try:
        return start[:end].decode("ascii").split("\n"), end + len(b"\nend_header\n")
    except UnicodeDecodeError:
        raise FormatError(f"{path}: the header holds bytes that are not ASCII.") from None


def _parse(path: Path, lines: list[str]) -> tuple[int, tuple[str, ...]]:
    lines = [line for line in lines[1:] if not line.startswith(("comment ", "obj_info ")) and line != "comment"]
    if not lines or lines[0] != _FORMAT:
        raise FormatError(f"{path}: expected {_FORMAT!r}, got {lines[0] if lines else 'nothing'!r}.")
    element = _COUNT.fullmatch(lines[1]) if len(lines) > 1 else None
    if element is None:
        raise FormatError(f"{path}: expected 'element vertex N', got {lines[1] if len(lines) > 1 else 'nothing'!r}.")
    return int(element[1]), _properties(path, lines[2:])


def _properties(path: Path, lines: list[str]) -> tuple[str, ...]:
    matches = [(_PROPERTY.fullmatch(line), line) for line in lines]
    if bad := [line for match, line in matches if match is None]:
        raise FormatError(f"{path}: expected 'property float NAME' lines only, got {bad[0][:80]!r}.")
    names = tuple(match[2] for match, _ in matches if match)
    if not names:
        raise FormatError(f"{path}: the header names no properties.")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise FormatError(f"{path}: property {twice[0]!r} appears more than once.")
    return names


def _check_finite(path: Path, table: np.ndarray, names: tuple[str, ...]) -> None:
    good = np.isfinite(table)
    if not good.all():
        row, column = (int(i[0]) for i in np.nonzero(~good))
        value = table[row, column]
        raise FormatError(f"{path}: property {names[column]!r} of vertex {row} is {value}; expected finite values.")
