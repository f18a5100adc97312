"""Reading and writing video through PyAV."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from moegs.data.findings import CaptureError, CaptureFormatError
from moegs.errors import BackendError

_ENDS = 1 << 16  # bytes of either end of a file that take part in its fingerprint


@dataclass(frozen=True)
class VideoSource:
    """The frames of one video file, decoded in order; nothing is kept in memory.

    Attributes:
        name: name of the camera, the stem of the file.
        path: the video.
        width: width of a decoded frame in pixels.
        height: height of a decoded frame in pixels.
        count: frames the container declares, or packets it holds where it declares nothing.
        fps: average frame rate.
    """

    name: str
    path: Path
    width: int
    height: int
    count: int
    fps: float

    def frames(self, start: int, count: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Decode ``count`` frames from ``start``.

        Raises:
            CaptureFormatError: the video is damaged or holds fewer frames than its container declares.
        """
        decoded = 0
        for frame in islice(decode(self.path), start, start + count):
            decoded += 1
            yield _rgb(frame)
        if decoded < count:
            raise CaptureFormatError(
                self.path,
                "frames",
                f"only {start + decoded} of {self.count} could be decoded; the file is cut short, copy it again.",
            )

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the file does: path, size, modification time and a digest of both ends."""
        return file_fingerprint(self.path)


def file_fingerprint(path: Path) -> str:
    """A string that changes when the file does: path, size, modification time and a digest of both ends."""
    stat = path.stat()
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(_ENDS))
        file.seek(max(0, stat.st_size - _ENDS), os.SEEK_SET)
        digest.update(file.read(_ENDS))
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{digest.hexdigest()}"


def probe(path: str | Path) -> VideoSource:
    """Read a video's header.

    Raises:
        CaptureError: the file does not exist.
        CaptureFormatError: it is not a video, or declares no frames.
    """
    path = Path(path)
    with _opened(path) as container:
        stream = container.streams.video[0]
        count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        source = VideoSource(path.stem, path, stream.width, stream.height, count, float(stream.average_rate or 0))
    if source.count < 1 or source.width < 1 or source.height < 1:
        found = f"{source.count} frames of {source.width}x{source.height}"
        raise CaptureFormatError(path, "frames", f"expected at least one frame, the container declares {found}.")
    return source


def decode(path: Path) -> Iterator[av.VideoFrame]:
    """Yield a video's frames in presentation order.

    Raises:
        CaptureError: the file does not exist.
        CaptureFormatError: it is not a video, or a packet or frame of it is damaged.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise CaptureFormatError(path, "packets", "a packet is damaged or cut short; copy the file again.")
            for frame in packet.decode():
                if frame.is_corrupt:  # the decoder has painted over what it could not read
                    message = f"the one at {frame.time} s is damaged; copy the file again."
                    raise CaptureFormatError(path, "frames", message)
                yield frame


def timestamps(path: Path) -> list[float]:
    """Presentation times of all frames in seconds, in the order of presentation; the packets are not decoded."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stamps = [packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None]
        return [float(stamp * stream.time_base) for stamp in sorted(stamps)]


def write(path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: int, crf: int = 12) -> None:
    """Encode frames as H.264 in full chroma resolution (4:4:4), the same bytes each time.

    Raises:
        BackendError: this build of PyAV has no H.264 encoder.
    """
    if "libx264" not in av.codecs_available:
        raise BackendError("Writing video needs the libx264 encoder, which this build of PyAV lacks: use PyPI's wheel.")
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None
        for image in frames:
            stream = stream or _h264(container, image.shape, fps, crf)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode() if stream else [])


def _h264(container: Any, shape: tuple[int, ...], fps: int, crf: int) -> Any:
    stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "medium"})
    stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv444p"
    stream.codec_context.thread_count = 1  # the number of threads would change the bytes
    return stream


def _rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    return frame.to_ndarray(format="rgb24")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise CaptureError(path, "file", "expected a video, found no such file.")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise CaptureFormatError(path, "streams", "expected a video stream, found none.")
            if container.streams.video[0].codec_context is None:  # the header was cut before it names the codec
                raise CaptureFormatError(path, "video", "its codec is unknown; copy the file again.")
            yield container
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CaptureFormatError(path, "video", f"cannot be decoded ({reason}); copy the file again.") from None
