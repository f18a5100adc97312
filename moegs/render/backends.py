"""Which rasteriser runs: a registry, and the choice of one for given tensors."""

from __future__ import annotations

import importlib.util
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


def native_available() -> bool:
    """Whether the compiled CPU kernels can be used here."""
    from moegs.render import native

    return native.available()
