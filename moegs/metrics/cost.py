"""What a result costs: time a frame, peak memory, bytes on disk."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from moegs.errors import ConfigError, DataError


@dataclass(frozen=True)
class Speed:
    """Wall time of repeated calls in milliseconds. The median is what we report: it forgives a busy machine."""

    median_ms: float
    min_ms: float
    max_ms: float
    calls: int

    @property
    def fps(self) -> float:
        """Frames a second at the median."""
        return 1000.0 / self.median_ms


def time_frames(render: Callable[[int], object], frames: int, warmup: int = 3) -> Speed:
    """Time ``render(i)`` for i = 0…frames-1, after some calls that are not counted.

    A GPU is waited for before and after each call, so the figure is the time until the pixels exist.

    Raises:
        ConfigError: no frame is to be timed.
    """
    if frames < 1:
        raise ConfigError(f"time_frames: expected at least one frame, got {frames}.")
    for i in range(warmup):
        render(i % frames)
    spent = [_milliseconds(render, i) for i in range(frames)]
    return Speed(statistics.median(spent), min(spent), max(spent), frames)


def _milliseconds(render: Callable[[int], object], i: int) -> float:
    _wait_for_gpu()
    start = time.perf_counter()
    render(i)
    _wait_for_gpu()
    return (time.perf_counter() - start) * 1e3


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory() -> int | None:
    """Largest resident size of this process so far in bytes, or None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def bytes_on_disk(path: str | Path) -> int:
    """Size of a file, or of all files below a folder (links are not followed).

    Raises:
        DataError: there is nothing at ``path``.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: expected a file or folder to measure, found nothing.")
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(p.stat().st_size for p in files)
