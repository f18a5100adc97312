"""The mixture's frames and one expert's gates on disk, rendered once and read in any order."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moegs.data import Scene
from moegs.errors import ConfigError, DataError
from moegs.io import atomic_write
from moegs.progress import progress_bar
from moegs.route.mixture import Mixture, mixture_key
from moegs.route.render import render_mixture

FRAME_LEVELS, GATE_LEVELS = 255.0, 65535.0
_FRAME_BYTES, _GATE_BYTES = 3, 2  # a pixel


@dataclass(frozen=True)
class Teacher:
    """What a student is taught from.

    Attributes:
        frames: camera → ``.npy`` file of 8-bit RGB, ``[frame, h, w, 3]``.
        gates: camera → ``.npy`` file of the student's gate in 16 bits, ``[frame, h, w]``; None where no expert of the
            mixture is the student, whose gate then counts as one half everywhere.
    """

    frames: dict[int, Path]
    gates: dict[int, Path] | None
    _maps: dict[Path, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def frame(self, camera: int, frame: int) -> Float[Tensor, "h w 3"]:
        """The mixture's render."""
        return self._read(self.frames, camera, frame, FRAME_LEVELS)

    def gate(self, camera: int, frame: int) -> Float[Tensor, "h w"]:
        """The student's gate."""
        if self.gates is None:
            return torch.full(self.frame(camera, frame).shape[:2], 0.5)
        return self._read(self.gates, camera, frame, GATE_LEVELS)

    def _read(self, paths: dict[int, Path], camera: int, frame: int, levels: float) -> Tensor:
        if camera not in paths:
            raise DataError(f"teacher: camera {camera} is not in the cache, which has {sorted(paths)}.")
        path = paths[camera]
        if path not in self._maps:
            self._maps[path] = np.load(path, mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(self._maps[path][frame].astype(np.float32)) / levels


def teacher_bytes(scene: Scene, cameras: Sequence[int], gates: bool = True) -> int:
    """Bytes that :func:`cache_teacher` needs on disk for frames, and for gates where a student has any."""
    bytes_a_pixel = _FRAME_BYTES + (_GATE_BYTES if gates else 0)
    return sum(bytes_a_pixel * scene.cameras[c].width * scene.cameras[c].height for c in cameras) * scene.n_frames


def cache_teacher(
    mixture: Mixture,
    scene: Scene,
    folder: str | Path,
    *,
    expert: str | None = None,
    cameras: Sequence[int] | None = None,
    backend: str = "auto",
    progress: bool = True,
) -> Teacher:
    """Render what is not in the cache yet or damaged there, and open it.

    Files are named after a digest of the mixture, the camera and the clip, and appear whole or not at all: a run that
    was interrupted goes on where it stopped.

    Args:
        mixture: the teacher.
        scene: the clip.
        folder: where the files lie.
        expert: the student's name in the mixture, whose gates are kept; None if it is not one of the experts.
        cameras: training cameras by default.
        backend: rasteriser.
        progress: show a bar that states the size.

    Raises:
        ConfigError: the mixture has no such expert.
        DataError: the disk is too small.
    """
    if expert is not None and expert not in mixture.experts:
        raise ConfigError(f"teacher: expected one of {', '.join(mixture.experts)}, got {expert!r}.")
    folder, chosen = Path(folder), tuple(scene.train if cameras is None else cameras)
    key = mixture_key(mixture)
    frames = {c: folder / f"frames-{_name(key, scene, c)}.npy" for c in chosen}
    gates = None if expert is None else {c: folder / f"gate-{expert}-{_name(key, scene, c)}.npy" for c in chosen}
    missing = [c for c in chosen if not (_whole(frames[c], scene, c, 3) and (gates is None or _whole(gates[c], scene, c)))]
    needed = teacher_bytes(scene, missing, gates is not None)
    _check_space(folder, needed)
    title = f"teacher frames, {needed / 2**20:.0f} MiB in {folder}"
    with progress_bar(title, len(missing) * scene.n_frames, progress) as advance:
        for camera in missing:
            gate = None if gates is None or expert is None else (gates[camera], list(mixture.experts).index(expert))
            _write(mixture, scene, camera, frames[camera], gate, backend, advance)
    return Teacher(frames, gates)


def _name(key: str, scene: Scene, camera: int) -> str:
    view = scene.cameras[camera]
    numbers = [view.viewmat.tolist(), view.K.tolist(), view.width, view.height, view.near, view.far, scene.n_frames]
    return f"{camera:03d}-{hashlib.sha256((key + json.dumps(numbers)).encode()).hexdigest()[:24]}"


def _whole(path: Path, scene: Scene, camera: int, *channels: int) -> bool:
    """Whether a file is there with all frames of a camera."""
    view = scene.cameras[camera]
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    kind = np.uint8 if channels else np.uint16
    return found.dtype == kind and found.shape == (scene.n_frames, view.height, view.width, *channels)


def _check_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(folder).free):
        raise DataError(f"{folder}: teacher frames need {needed >> 20} MiB, {free >> 20} MiB are free; name another.")


@torch.no_grad()
def _write(
    mixture: Mixture, scene: Scene, camera: int, images: Path, gate: tuple[Path, int] | None, backend: str,
    advance: Callable[[], None],
) -> None:  # fmt: skip
    """One camera's frames, and the gates of one expert (file and index) where wanted, frame by frame."""
    view = scene.cameras[camera]
    shape = (scene.n_frames, view.height, view.width)
    with ExitStack() as stack:
        file = stack.enter_context(atomic_write(images))
        gate_file = None if gate is None else stack.enter_context(atomic_write(gate[0]))
        _header(file, (*shape, 3), "|u1")
        if gate_file is not None:
            _header(gate_file, shape, "<u2")
        for frame in range(scene.n_frames):
            render = render_mixture(mixture, view, scene.time(frame), backend=backend)
            file.write(_levels(render.color, FRAME_LEVELS, "|u1"))
            if gate is not None and gate_file is not None:
                gate_file.write(_levels(render.gates[gate[1]], GATE_LEVELS, "<u2"))
            advance()


def _header(file: BinaryIO, shape: tuple[int, ...], descr: str) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def _levels(values: Tensor, levels: float, descr: str) -> bytes:
    return (values.clamp(0.0, 1.0) * levels).round().cpu().numpy().astype(descr).tobytes()
