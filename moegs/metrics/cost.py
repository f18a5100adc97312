"""What a result costs: time a frame, peak memory, bytes on disk."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
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


def take_turns(renders: Mapping[str, Callable[[int], object]], frames: int, warmup: int = 1) -> dict[str, Speed]:
    """Time several renderers frame by frame in turns, so that a busy moment of the machine hits all of them alike.

    Each round has its own order, the same at every call: who always came after the same neighbour would find the caches as
    that one leaves them.

    Args:
        renders: by name, from a frame's number to anything.
        frames: rounds to time.
        warmup: rounds before that are not counted.

    Raises:
        ConfigError: no frame is to be timed.
    """
    if frames < 1:
        raise ConfigError(f"take_turns: expected at least one frame, got {frames}.")
    spent: dict[str, list[float]] = {name: [] for name in renders}
    order, shuffle = list(renders), random.Random(0).shuffle
    for i in range(-warmup, frames):
        shuffle(order)
        for name in order:
            spent[name].append(_milliseconds(renders[name], i % frames))
    counted = {name: values[warmup:] for name, values in spent.items()}
    return {name: Speed(statistics.median(v), min(v), max(v), frames) for name, v in counted.items()}


def _milliseconds(render: Callable[[int], object], i: int) -> float:
    _wait_for_gpu()
    start = time.perf_counter()
    render(i)
    _wait_for_gpu()
    return (time.perf_counter() - start) * 1e3


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):  # the model need not be on the first
            torch.cuda.synchronize(number)


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
