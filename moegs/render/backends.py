"""Which rasteriser runs: a registry, and the choice of one for given tensors."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable

import torch

from moegs.errors import BackendError
from moegs.render.types import RasterInputs, RasterOutputs

Backend = Callable[[RasterInputs], RasterOutputs]


def _reference() -> Backend:
    from moegs.render.reference import rasterize_reference

    return rasterize_reference


def _native() -> Backend:
    from moegs.render import native

    if not native.available():
        raise BackendError(f"backend 'native': not available here ({native.why_not()}); use backend='reference'.")
    return native.rasterize_native


def _gsplat() -> Backend:
    from moegs.render.gsplat_backend import rasterize_gsplat

    return rasterize_gsplat


_BACKENDS: dict[str, Callable[[], Backend]] = {"reference": _reference, "native": _native, "gsplat": _gsplat}


def names() -> list[str]:
    """Names that ``rasterize(backend=…)`` accepts, besides ``"auto"``."""
    return list(_BACKENDS)


def resolve(name: str) -> Backend:
    """The backend function of a name.

    Raises:
        BackendError: the name is unknown, or the backend cannot run on this machine.
    """
    if name not in _BACKENDS:
        raise BackendError(f"backend: expected 'auto' or one of {', '.join(_BACKENDS)}, got {name!r}.")
    return _BACKENDS[name]()


def choose(device: torch.device, dtype: torch.dtype) -> str:
    """Best backend for tensors of a device and dtype: gsplat on CUDA, native on the CPU, reference for the rest."""
    if dtype != torch.float32:
        return "reference"
    if device.type == "cuda" and importlib.util.find_spec("gsplat") is not None:
        return "gsplat"
    if device.type == "cpu" and native_available():
        return "native"
    return "reference"


def choose_for(inputs: RasterInputs) -> str:
    """Best backend for a request: that of its tensors, and the reference where intrinsics are learnt, which no other can."""
    means, learnt = inputs.gaussians.means, inputs.camera.K.requires_grad and torch.is_grad_enabled()
    return "reference" if learnt else choose(means.device, means.dtype)


def usable_device(name: str) -> str:
    """``name`` itself, a device to train and render on: ``"cpu"``, ``"cuda"`` or one of several GPUs, ``"cuda:1"``.

    Raises:
        BackendError: it is neither, torch sees no such GPU, or there is no gsplat to draw on it.
    """
    if name == "cpu":
        return name
    asked = re.fullmatch(r"cuda(?::(0|[1-9][0-9]*))?", name, re.ASCII)
    if asked is None:
        raise BackendError(f"device: expected cpu, cuda or cuda:N, got {name!r}.")
    if not torch.cuda.is_available():
        raise BackendError(f"device {name}: needs a CUDA GPU, torch sees none; use the CPU.")
    if int(asked[1] or 0) >= (count := torch.cuda.device_count()):
        raise BackendError(f"device {name}: the last of the GPUs that torch sees is cuda:{count - 1}.")
    if importlib.util.find_spec("gsplat") is None:
        raise BackendError(f"device {name}: gsplat is not installed; pip install 'moegs[gpu]', or use the CPU.")
    return name


def native_available() -> bool:
    """Whether the compiled CPU kernels can be used here."""
    from moegs.render import native

    return native.available()
