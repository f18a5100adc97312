"""Picture sequences on disk: numbered PNGs, or a video that any player shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from moegs.errors import BackendError
from moegs.io import atomic_write
from moegs.report.pictures import Picture

Add = Callable[[Picture], None]


def write_png(path: str | Path, picture: Picture) -> None:
    """Write one PNG, atomically."""
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, format="PNG")


@contextmanager
def open_pngs(folder: str | Path) -> Iterator[Add]:
    """Give a function that writes ``00000.png``, ``00001.png``… into a folder, one a call."""
    written = 0

    def add(picture: Picture) -> None:
        nonlocal written
        write_png(Path(folder) / f"{written:05d}.png", picture)
        written += 1

    yield add


@contextmanager
def open_movie(path: str | Path, fps: float = 30.0, crf: int = 16) -> Iterator[Add]:
    """Give a function that appends a frame to an H.264 mp4 with 4:2:0 colours.

    The file appears when the block ends well. Odd sizes lose their last row or column to the format.

    Raises:
        BackendError: this build of PyAV has no H.264 encoder.
    """
    if "libx264" not in av.codecs_available:
        raise BackendError("mp4 needs the libx264 encoder, which this build of PyAV lacks; write PNGs instead.")
    with atomic_write(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
        stream.pix_fmt = "yuv420p"

        def add(picture: Picture) -> None:
            even = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
            _size(stream, even)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield add
        container.mux(stream.encode())


def _size(stream: Any, first: Picture) -> None:
    if not stream.codec_context.is_open:
        stream.height, stream.width = first.shape[:2]
