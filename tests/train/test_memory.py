"""Freed memory is there again for the next step, and goes back in the end."""

from __future__ import annotations

import platform
import resource
import statistics
from pathlib import Path

import pytest
import torch

from moegs.train.memory import SETTINGS, freed_memory_kept

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
PAGES = 3 * (1 << 23) // resource.getpagesize()


@pytest.fixture
def untold(monkeypatch):
    """An environment that does not say how memory is kept."""
    for name in (*SETTINGS, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def step() -> int:
    """Pages that three blocks of 8 MiB cost."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 21) for _ in range(3)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_a_step_finds_the_memory_of_the_one_before(untold):
    with freed_memory_kept():
        step()
        assert statistics.median(step() for _ in range(5)) < PAGES / 20


@glibc
def test_what_is_free_in_the_end_goes_back(untold):
    with freed_memory_kept():
        blocks = [torch.ones(1 << 21) for _ in range(20)]
        del blocks
        held = resident()
    assert held - resident() > 100 << 20


@glibc
def test_an_environment_that_knows_better_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr("ctypes.CDLL", None)  # would fail if it were asked
    with freed_memory_kept():
        pass
