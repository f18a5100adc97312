"""The layouts a capture can have. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moegs.data import n3v, technicolor
from moegs.data.capture import Capture
from moegs.data.findings import CaptureError


@dataclass(frozen=True)
class Layout:
    """How one layout is recognised and read, and what a folder of it looks like (for messages)."""

    name: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], Capture]
    looks_like: str


LAYOUTS = (
    Layout(n3v.NAME, n3v.detect, n3v.read, "cam00.mp4 …, poses_bounds.npy"),
    Layout(
        technicolor.NAME, technicolor.detect, technicolor.read, "<Scene>_undist_00001_00.png …, cameras_parameters.txt"
    ),
)


def layout_of(path: str | Path) -> Layout:
    """The layout of a folder.

    Raises:
        CaptureError: there is no such folder, or it looks like none of the layouts.
    """
    path = Path(path)
    if not path.is_dir():
        raise CaptureError(path, "folder", "no such folder; give the folder of one capture.")
    for layout in LAYOUTS:
        if layout.detect(path):
            return layout
    known = "; ".join(f"{layout.name}: {layout.looks_like}" for layout in LAYOUTS)
    raise CaptureError(path, "layout", f"not recognised; expected one of {known}.")
