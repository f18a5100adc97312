"""Frames of all cameras on disk: random reads in any order at the price of a page fault."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from moegs.data.findings import CaptureError
from moegs.errors import DataError
from moegs.io import atomic_write
from moegs.progress import progress_bar

_VERSION = "1"  # part of every key: raise it when the pixels in a cache file change meaning
_CACHED = re.compile(r"\.?.+-[0-9a-f]{24}\.npy(\.[0-9a-f]{12}\.part)?")
_ABANDONED = 3600.0  # seconds after which nobody writes to an unfinished file any more
Size = tuple[int, int]


@runtime_checkable
class FrameSource(Protocol):
    """Where one camera's frames come from: a video, or a row of image files."""

    @property
    def name(self) -> str:
        """Name of the camera."""
        ...

    @property
    def path(self) -> Path:
        """The file that messages name."""
        ...

    @property
    def width(self) -> int:
        """Pixels across."""
        ...

    @property
    def height(self) -> int:
        """Pixels down."""
        ...

    @property
    def count(self) -> int:
        """Number of frames declared."""
        ...

    def frames(self, start: int, count: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Yield ``count`` RGB frames from ``start``, in order."""
        ...

    @property
    def fingerprint(self) -> str:
        """A string that changes when the frames do."""
        ...


class Frames(Protocol):
    """Pictures of several cameras, in any order."""

    def image(self, camera: int, frame: int) -> Float[Tensor, "h w 3"]:
        """One frame as float32 in [0, 1]."""
        ...


@dataclass(frozen=True)
class FrameStore:
    """The decoded frames of every camera, one uint8 memory map ``[frame, h, w, 3]`` a camera.

    A map lives as long as one read, so the process holds one frame at a time however long the clip; what is read often
    stays in the operating system's page cache. Cheap to send to another process: only the paths travel.

    Attributes:
        paths: one ``.npy`` file a camera.
        n_frames: frames in each.
    """

    paths: tuple[Path, ...]
    n_frames: int

    def pixels(self, camera: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """One frame as it lies on disk, 8-bit RGB; the array is the caller's."""
        if not 0 <= frame < self.n_frames:
            raise IndexError(f"frame {frame}: expected 0 to {self.n_frames - 1}.")
        return np.array(np.load(self.paths[camera], mmap_mode="r", allow_pickle=False)[frame])

    def image(self, camera: int, frame: int) -> Float[Tensor, "h w 3"]:
        """One frame as float32 in [0, 1]."""
        return torch.from_numpy(self.pixels(camera, frame)).float().div_(255.0)


@dataclass(frozen=True)
class Undecoded:
    """In the place of frames that nobody was to look at."""

    def image(self, camera: int, frame: int) -> Float[Tensor, "h w 3"]:
        """Raises a :class:`DataError`."""
        raise DataError(f"camera {camera}, frame {frame}: the scene was loaded without its pictures (decode=False).")


@dataclass(frozen=True)
class Clip:
    """Which frames of a capture to decode, and how large: ``count`` frames from ``start`` at ``scale``."""

    start: int
    count: int
    scale: float = 1.0

    def size(self, source: FrameSource) -> Size:
        """Width and height after scaling, at least one pixel."""
        return max(1, round(source.width * self.scale)), max(1, round(source.height * self.scale))


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/moegs/frames``, or under ``~/.cache`` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moegs" / "frames"


def cached_files(cache_dir: str | Path | None = None) -> list[Path]:
    """Files that :func:`store` keeps in a folder (:func:`default_cache` if None), and what it left when it was killed.

    They may be deleted at any time that nothing reads them: what is missing is decoded again.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache()
    found = [p for p in folder.iterdir() if _CACHED.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(p for p in found if p.suffix == ".npy" or time.time() - p.stat().st_mtime > _ABANDONED)


def store(
    sources: Sequence[FrameSource], clip: Clip, cache_dir: str | Path | None = None, progress: bool = True
) -> FrameStore:
    """Decode what is not in the cache yet and open all of it.

    Each camera's file is named after a digest of its source (path, size, modification time, both ends of the content),
    the frame range and the scale; it appears under that name only when it is complete. Nothing is written beside the
    capture, which may be read-only.

    Args:
        sources: one a camera.
        clip: frames and scale; frames are resized with a Lanczos filter.
        cache_dir: where the decoded frames lie; :func:`default_cache` if None.
        progress: show a bar when decoding takes more than two seconds.

    Raises:
        CaptureError: the cache cannot be written, or the disk is too small for it.
        CaptureFormatError: a source is damaged or holds fewer frames than it declares.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache()
    paths = tuple(folder / _file_name(source, clip) for source in sources)
    missing = [(s, p) for s, p in zip(sources, paths, strict=True) if not _complete(p, s, clip)]
    if missing:
        _check_space(folder, [source for source, _ in missing], clip)
        with progress_bar("Decoding video", len(missing) * clip.count, progress) as advance:
            for source, path in missing:
                _fill(path, source, clip, advance)
    return FrameStore(paths, clip.count)


def _file_name(source: FrameSource, clip: Clip) -> str:
    key = "|".join([_VERSION, source.fingerprint, str(clip.start), str(clip.count), *map(str, clip.size(source))])
    return f"{source.name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"


def _shape(source: FrameSource, clip: Clip) -> tuple[int, int, int, int]:
    width, height = clip.size(source)
    return clip.count, height, width, 3


def _complete(path: Path, source: FrameSource, clip: Clip) -> bool:
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return frames.shape == _shape(source, clip) and frames.dtype == np.uint8


def _check_space(folder: Path, sources: Sequence[FrameSource], clip: Clip) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaptureError(folder, "frame cache", f"cannot be created ({error.strerror}); choose another.") from None
    if not os.access(folder, os.W_OK):
        raise CaptureError(folder, "frame cache", "cannot be written; choose another folder.")
    needed = sum(int(np.prod(_shape(source, clip))) for source in sources)
    if needed > (free := shutil.disk_usage(folder).free):
        advice = "choose another folder, a smaller scale or fewer frames."
        raise CaptureError(folder, "frame cache", f"{needed >> 20} MiB needed, {free >> 20} MiB free; {advice}")


def _fill(path: Path, source: FrameSource, clip: Clip, advance: Callable[[], None]) -> None:
    size = clip.size(source)
    header = {"descr": "|u1", "fortran_order": False, "shape": _shape(source, clip)}
    with atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for frame in source.frames(clip.start, clip.count):
            if frame.shape != (source.height, source.width, 3):
                expected = f"{source.width}x{source.height}"
                raise CaptureError(
                    source.path, "frame size", f"expected {expected}, got {frame.shape[1]}x{frame.shape[0]}."
                )
            file.write(np.ascontiguousarray(_resized(frame, size)).tobytes())
            advance()


def _resized(frame: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "h2 w2 3"]:
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
