"""The layouts a capture can have. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from moegs.data import n3v, technicolor
from moegs.data.capture import Capture
from moegs.data.findings import CaptureError, Finding


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        name: its name in scenes and messages.
        looks_like: its files, for messages.
        detect: whether a folder looks like it.
        read: headers and calibration of a folder.
        steps: parts of ``read`` that can fail independently of each other.
        inspect: findings that only this layout can have.
    """

    name: str
    looks_like: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], Capture]
    steps: Callable[[Path], Iterable[Callable[[], object]]]
    inspect: Callable[[Capture], Iterable[Finding]]


_TECHNICOLOR_FILES = f"<Scene>_undist_00001_00.png …, {technicolor.PARAMETERS}"

LAYOUTS = (
    Layout(n3v.NAME, f"cam00.mp4 …, {n3v.POSES}", n3v.detect, n3v.read, n3v.steps, n3v.inspect),
    Layout(
        technicolor.NAME,
        _TECHNICOLOR_FILES,
        technicolor.detect,
        technicolor.read,
        technicolor.steps,
        technicolor.inspect,
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
