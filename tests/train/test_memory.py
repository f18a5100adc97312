"""Freed memory is there again for the next step, and goes back in the end."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from moegs.train.memory import SETTINGS, freed_memory_kept

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

# In a process of its own: what other tests left in the heap decides where blocks come from.
PROGRAM = """
import resource, statistics, torch
from moegs.train.memory import freed_memory_kept

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 21) for _ in range(3)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with freed_memory_kept():
    step()
    print(statistics.median(step() for _ in range(5)))
    blocks = [torch.ones(1 << 21) for _ in range(20)]
    del blocks
    held = resident()
print(held - resident())
"""


@glibc
def test_a_step_finds_the_memory_of_the_one_before_and_the_rest_goes_back():
    told = (*SETTINGS, "GLIBC_TUNABLES")
    environment = {k: v for k, v in os.environ.items() if k not in told}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    faults, given_back = map(float, done.stdout.split())
    assert faults < 1000  # of 6144 pages of 4 KiB
    assert given_back > 100 << 20


@glibc
def test_an_environment_that_knows_better_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr("ctypes.CDLL", None)  # would fail if it were asked
    with freed_memory_kept():
        pass
