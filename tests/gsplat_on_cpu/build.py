"""Compile the kernels that an installed gsplat brings along, unchanged but for what is not C++, to run on a CPU."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import torch

HERE = Path(__file__).parent
SOURCES = (
    "ProjectionEWA3DGSPacked.cu", "IntersectTile.cu", "RasterizeToPixels3DGSFwd.cu", "RasterizeToPixels3DGSBwd.cu",
    "SphericalHarmonicsCUDA.cu", "Projection.cpp", "Intersect.cpp", "Rasterization.cpp", "SphericalHarmonics.cpp",
)  # fmt: skip
CUDA_HEADERS = (
    "ATen/cuda/Atomic.cuh", "c10/cuda/CUDAStream.h", "c10/cuda/CUDAGuard.h", "c10/cuda/CUDACachingAllocator.h",
    "cooperative_groups.h", "cooperative_groups/reduce.h", "cub/cub.cuh",
)  # fmt: skip
MOST_CHANNELS = 17  # kernels for more are made of the same templates


def load(folder: Path) -> ModuleType:
    """gsplat's compiled half for CPU tensors, from ``folder`` where it was made before.

    Raises:
        RuntimeError: the compiler refuses.
    """
    spec = importlib.util.find_spec("gsplat")
    assert spec is not None and spec.origin is not None
    cuda = Path(spec.origin).parent / "cuda"
    library = folder / f"csrc-{_key(cuda)}{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (folder / "lock").open("w") as lock:  # one test process compiles, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile(cuda, folder / "sources", library)
    return _imported(library)


def _key(cuda: Path) -> str:
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    state = hashlib.sha256(f"{torch.__version__} {sys.version} {compiler}".encode())
    ours = sorted(p for p in HERE.iterdir() if p.suffix in (".h", ".cpp", ".py"))
    for path in (*ours, *_theirs(cuda)):
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def _theirs(cuda: Path) -> list[Path]:
    """gsplat's files that are compiled, and its headers."""
    headers = sorted([*(cuda / "include").iterdir(), *(cuda / "csrc").glob("*.h")])
    return [*headers, *(cuda / "csrc" / name for name in SOURCES)]


def _imported(library: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("csrc", library)
    assert spec is not None and spec.loader is not None
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)  # the files hold more operators than there are kernels here
    try:
        module = importlib.util.module_from_spec(spec)
    finally:
        sys.setdlopenflags(flags)
    spec.loader.exec_module(module)
    return module


def _compile(cuda: Path, folder: Path, library: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name in CUDA_HEADERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('#include "cuda_on_cpu.h"\n')
    for path in _theirs(cuda):
        (folder / path.name).write_text(in_cpp(path.read_text()))
    everything = folder / "everything.cpp"  # torch's headers are what takes long: read them once
    everything.write_text("".join(f'#include "{name}"\n' for name in ("shared_memory.h", *SOURCES, "bindings.cpp")))
    lib, include = (Path(torch.__file__).parent / name for name in ("lib", "include"))
    glm, python = cuda / "csrc/third_party/glm", sysconfig.get_path("include")
    folders = (folder, HERE, glm, include, include / "torch/csrc/api/include", python)
    staged = library.with_suffix(".part")
    command = [
        "g++", "-shared", "-fPIC", "-std=c++20", "-O1", "-w", "-fvisibility=hidden", "-fno-strict-aliasing",
        "-U_FORTIFY_SOURCE", "-DTORCH_EXTENSION_NAME=csrc",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", *(f"-I{path}" for path in folders),
        str(everything), str(HERE / "threads.cpp"), "-Wl,-z,lazy", f"-L{lib}", "-ltorch_python", "-ltorch_cpu", "-lc10",
        "-o", str(staged),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"gsplat's kernels do not compile here:\n{done.stderr[-4000:]}")
    for older in library.parent.glob("csrc-*"):
        if older != staged:
            older.unlink()
    staged.replace(library)


def in_cpp(source: str) -> str:
    """CUDA C++ without what is not C++: launches, the demand for CUDA tensors, conversions that saturate."""
    source = re.sub(r"([\w:]+(?:<[^<>;]*>)?)\s*<<<(.*?)>>>", r"cuda_on_cpu::launch(\1, \2)", source, flags=re.DOTALL)
    source = source.replace("x.is_cuda()", "x.defined()")
    rounded = r"\(uint32_t\)\s*((?:floor|ceil)\((?:[^()]|\([^()]*\))*\))"
    source = re.sub(rounded, r"cuda_on_cpu::saturated(\1)", source)
    sizes = re.compile(r"^\s*(?:__INS__|__LAUNCH_KERNEL__)\((\d+)\)\s*$", flags=re.MULTILINE)
    return sizes.sub(lambda m: m[0] if int(m[1]) <= MOST_CHANNELS else "", source)
