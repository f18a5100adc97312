"""gsplat's own kernels on a CPU: what tells whether the CUDA backend draws right where there is no GPU.

gsplat's wheel brings its CUDA sources along. Here a C++ compiler translates them, with ``cuda_on_cpu.h`` in the place of
CUDA's headers, and gsplat's Python runs them on CPU tensors. Not for speed: a frame takes seconds. What only a GPU can tell
is left: fast mathematics, races between threads that run at once, how long it takes.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from moegs.render import gsplat_backend
from tests.gsplat_on_cpu.build import load

BACKEND = "gsplat.cuda._backend"
Run = Callable[..., Any]  # a compiled function and its arguments -> what it returns


def folder(request: pytest.FixtureRequest) -> Path:
    """Where compiled kernels are kept: in pytest's cache, from run to run, if it has one."""
    cache = getattr(request.config, "cache", None)
    return request.getfixturevalue("tmp_path_factory").mktemp("gsplat") if cache is None else cache.mkdir("gsplat_on_cpu")


def use(patch: pytest.MonkeyPatch, folder: Path, run: Run | None = None) -> ModuleType | SimpleNamespace:
    """Let backend ``"gsplat"`` take CPU tensors as long as the patch holds; returns gsplat's compiled half.

    ``run`` calls its functions for tensors of another kind. Skips the test where gsplat, a compiler or its surroundings are
    missing.
    """
    if find_spec("gsplat") is None:
        pytest.skip("gsplat is not installed (pip install 'moegs[gpu]')")
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if sys.platform != "linux" or shutil.which("g++") is None or not headers:
        pytest.skip("gsplat's kernels are compiled for a CPU on Linux alone, with g++ and Python's headers")
    compiled = load(folder)
    kernels = compiled if run is None else _called_through(run, compiled)
    first = BACKEND not in sys.modules
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as importing:
        warnings.simplefilter("ignore")
        if first:  # it takes what was compiled before it looks for CUDA
            importing.setitem(sys.modules, "gsplat.csrc", kernels)
        gsplat, backend = import_module("gsplat"), import_module(BACKEND)
    if first:
        patch.setitem(sys.modules, BACKEND, sys.modules.pop(BACKEND))  # afterwards it looks for CUDA again
    patch.setattr(backend, "_C", kernels)
    patch.setattr(gsplat_backend, "_import_kernels", lambda inputs: gsplat)
    return kernels


def _called_through(run: Run, compiled: ModuleType) -> SimpleNamespace:
    own = {name: value for name, value in vars(compiled).items() if not name.startswith("__")}
    return SimpleNamespace(**{n: partial(run, v) if inspect.isbuiltin(v) else v for n, v in own.items()})
