"""Keeping the memory that one step frees for the next.

glibc gives large blocks back to the system when they are freed and asks for them again, page by page, in the next step:
for priors with networks over all Gaussians that took a quarter of the processor time of training, and a seventh of a
mixture's frame. Blocks of more than 32 MiB it always gives back.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")  # whoever sets one knows better
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of the settings in malloc.h
_LARGEST = 1 << 25  # bytes of a block that glibc is ready to keep; it would find this out by itself, in time
_ALL = (1 << 31) - 1


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While this lasts, memory that is freed stays with the process; what is left then goes back.

    From then on the process has the thresholds that glibc comes to by itself once blocks of 32 MiB were freed. Does nothing
    where the C library is not glibc, or the environment tells it how to do this (``MALLOC_TRIM_THRESHOLD_`` and the like).
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
    libc.mallopt(_TRIM_THRESHOLD, _ALL)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)  # as glibc has it once it has seen the largest blocks
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    told = any(name in os.environ for name in SETTINGS) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    return None if told or platform.libc_ver()[0] != "glibc" else ctypes.CDLL(None)
