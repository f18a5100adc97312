"""Native CPU kernels: rasterisation, SSIM, plane sampling, splines, rays, the router's network and gates in torch-free C++.

The compiled library is optional. ``available()`` says whether it is there, ``why_not()`` what is missing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moegs.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

try:
    from moegs.render.native import _native  # type: ignore[attr-defined]
except ImportError as error:  # built without a compiler, or for another interpreter
    _native = None
    _REASON = str(error)
else:
    _REASON = ""


def available() -> bool:
    """Whether the compiled kernels can be used here."""
    return _native is not None


def why_not() -> str:
    """Why the compiled kernels cannot be used, or an empty string where they can."""
    if available():
        return ""
    return f"the compiled kernels of moegs are not installed ({_REASON}); reinstall moegs where a C++17 compiler is present"


def library():
    """The compiled module.

    Raises:
        BackendError: it is not installed.
    """
    if _native is None:
        raise BackendError(f"native: {why_not()}.")
    return _native


def takes(*tensors: Tensor) -> bool:
    """Whether kernels can read these: built, float32, on the CPU, outside of ``torch.func``, which cannot see into them."""
    if not available():
        return False
    import torch

    inside = torch._C._functorch.is_functorch_wrapped_tensor
    return all(x.device.type == "cpu" and x.dtype == torch.float32 and not inside(x) for x in tensors)


def isa() -> str:
    """Instruction set the kernels run on: ``avx512``, ``avx2`` or ``portable``. ``MOEGS_NATIVE_ISA`` forces one."""
    return library().isa()


def threads() -> int:
    """How many threads the kernels use: ``MOEGS_NUM_THREADS``, else ``torch.get_num_threads()``.

    Raises:
        ConfigError: the variable is not a positive integer.
    """
    value = os.environ.get("MOEGS_NUM_THREADS", "").strip()
    if not value:
        import torch

        return torch.get_num_threads()
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"MOEGS_NUM_THREADS: expected a positive integer, got '{value}'.")
    return int(value)


def __getattr__(name: str):
    if name in ("rasterize_native", "project_native"):
        from moegs.render.native import rasterize

        return getattr(rasterize, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
