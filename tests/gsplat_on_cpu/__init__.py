"""gsplat's own kernels on a CPU: what tells whether the CUDA backend draws right where there is no GPU.

gsplat's wheel brings its CUDA sources along. Here a C++ compiler translates them, with ``cuda_on_cpu.h`` in the place of
CUDA's headers, and gsplat's Python runs them on CPU tensors. Not for speed: a frame takes seconds.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from moegs.render import gsplat_backend
from tests.gsplat_on_cpu.build import load


def use(patch: pytest.MonkeyPatch, folder: Path):
    """Let backend ``"gsplat"`` take CPU tensors as long as the patch holds; returns gsplat's compiled half.

    Skips the test where gsplat, a compiler or its surroundings are missing.
    """
    if find_spec("gsplat") is None:
        pytest.skip("gsplat is not installed (pip install 'moegs[gpu]')")
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if sys.platform != "linux" or shutil.which("g++") is None or not headers:
        pytest.skip("gsplat's kernels are compiled for a CPU on Linux alone, with g++ and Python's headers")
    kernels = load(folder)
    patch.setitem(sys.modules, "gsplat.csrc", kernels)
    import gsplat
    from gsplat.cuda import _backend

    patch.setattr(_backend, "_C", kernels)
    patch.setattr(gsplat_backend, "_import_kernels", lambda inputs: gsplat)
    return kernels
