"""A whole training step of an expert beside the rasteriser's own share: run like ``test_ops.py``."""

from __future__ import annotations

import pytest

from benchmarks import workloads
from moegs.render import backends


@pytest.mark.parametrize("part", ["step", "rasteriser"])
def test_polynomial_step(benchmark, part: str) -> None:
    size = (10_000, 320, 240) if backends.native_available() else (1_000, 64, 48)
    benchmark(workloads.training_step(*size)[part])
