"""Timing on a machine that may be busy: rounds in which every candidate takes its turn, medians and minima."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one candidate over the rounds it took part in."""

    median: float
    best: float
    rounds: int


def interleaved(
    candidates: dict[str, Callable[[], object]], rounds: int = 15, seconds: float = 20.0
) -> dict[str, Timing]:
    """Time candidates in turn, round after round, after one call each that is not counted.

    A candidate that has used up its ``seconds`` sits out once it has been timed (a slow one twice at least), so that
    slow and fast ones can be compared in one run.
    """
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    for _ in range(rounds):
        for name, call in candidates.items():
            if len(spent[name]) < 2 or sum(spent[name]) < seconds:
                start = time.perf_counter()
                call()
                spent[name].append(time.perf_counter() - start)
    return {name: Timing(1e3 * statistics.median(v), 1e3 * min(v), len(v)) for name, v in spent.items()}


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run the native kernels and torch on ``n`` threads."""
    before, variable = torch.get_num_threads(), os.environ.get("MOEGS_NUM_THREADS")
    torch.set_num_threads(n)
    os.environ["MOEGS_NUM_THREADS"] = str(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.pop("MOEGS_NUM_THREADS")
        if variable is not None:
            os.environ["MOEGS_NUM_THREADS"] = variable


@contextmanager
def busy_neighbours(n: int) -> Iterator[None]:
    """Keep ``n`` other processes computing."""
    spin = "while True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(n)]
    time.sleep(0.3)
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()
