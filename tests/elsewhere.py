"""A device that is not the CPU, for machines that have no other: tensors "elsewhere" keep their values in CPU tensors.

Operators run on those, and refuse to mix them with tensors of the CPU, as CUDA does. What passes here has its tensors where
they belong; for the kernels there is ``tests/gsplat_on_cpu``. Stands on an experimental interface of torch
(``torch.utils.backend_registration``), and is skipped where that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "elsewhere"
_COPIES = ("aten::_copy_from", "aten::copy_", "aten::_to_copy")
_INDEXING = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")  # masks and indices may be on the CPU
_META = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)
_values: dict[int, Tensor] = {}  # by storage: what C++ hands on is another Python object


def device() -> torch.device:
    """The device; skips the test where torch cannot make one up."""
    if not _registered:
        pytest.skip("this torch has no devices that are written in Python")
    return torch.device(NAME)


def run(function: Callable[..., Any], *args: Any) -> Any:
    """What a compiled function for CPU tensors makes of tensors elsewhere, as one for CUDA does of those on a GPU."""
    if strangers := [list(x.shape) for x in args if isinstance(x, Tensor) and not _is_there(x)]:
        raise RuntimeError(f"{function}: expected everything on the device {NAME!r}, got tensors of the CPU: {strangers}.")
    return tree_map(lambda x: _wrapped(x) if isinstance(x, Tensor) else x, function(*map(_value, args)))


def _register() -> tuple[torch.library.Library, ...]:
    """Keeps operators registered as long as what it returns is kept; nothing where torch cannot make devices up."""
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None or not hasattr(torch._C, "_acc"):
        return ()
    setup(NAME)
    rest, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(_run, "PrivateUse1")
    aten.impl("convolution_overrideable", partial(_run, torch.ops.aten.convolution.default), "PrivateUse1")
    aten.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    for name in ("mv", "as_strided_"):  # C++ has its own, for real memory
        aten.impl(name, partial(_run, getattr(torch.ops.aten, name).default), "PrivateUse1")
    return rest, aten


def _convolution_backward(upstream: Tensor, x: Tensor, weight: Tensor, *how: Any) -> Any:
    return _run(torch.ops.aten.convolution_backward.default, upstream, x, weight, [len(weight)], *how)


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    name = op._schema.name
    _refuse_to_mix(name, flat)
    values = [_value(x) for x in flat]
    if name == "aten::_copy_from":
        values[1].copy_(values[0])
        return args[1]
    own_args, own_kwargs = tree_unflatten(values, spec)
    result = op(*map(_as_declared, own_args, op._schema.arguments), **own_kwargs)
    same = {}
    for x, value in zip(flat, values, strict=True):
        if isinstance(x, Tensor) and _is_there(x):
            if x.shape != value.shape:  # an output that was made empty, or whose layout changes in place
                x.data = _wrapped(value)
            same[id(value)] = x
    return tree_map(lambda x: (same[id(x)] if id(x) in same else _wrapped(x)) if isinstance(x, Tensor) else x, result)


def _refuse_to_mix(name: str, flat: list[Any]) -> None:
    """As CUDA does: numbers may come from the CPU, and masks and indices into what is there; generators may not."""
    tensors = [x for x in flat if isinstance(x, Tensor)]
    strangers = [x for x in tensors if x.ndim and not _is_there(x)]
    if name in _INDEXING and _is_there(tensors[0]):
        strangers = [x for x in strangers if x.dtype not in (torch.bool, torch.int64)]
    if name not in _COPIES and (strangers or any(isinstance(x, torch.Generator) for x in flat)):
        found = [(str(x.device), list(x.shape)) for x in tensors]
        raise RuntimeError(f"{name}: expected everything on the device {NAME!r}, got {found} or a generator of the CPU.")


def _as_declared(value: Any, argument: Any) -> Any:
    """Numbers arrive bare where an operator declares a tensor."""
    bare = isinstance(argument.type, torch.TensorType) and isinstance(value, bool | int | float)
    return torch.tensor(value) if bare else value


def _is_there(x: Tensor) -> bool:
    return x.device.type == NAME


def _value(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    if not isinstance(x, Tensor) or not _is_there(x):
        return x
    value = _values[x.untyped_storage()._cdata]
    return value if _layout(value) == _layout(x) else value.as_strided(*_layout(x))  # a view that C++ made


def _layout(x: Tensor) -> tuple[torch.Size, tuple[int, ...], int]:
    return x.shape, x.stride(), x.storage_offset()


def _wrapped(value: Tensor) -> Tensor:
    empty = torch._C._acc.create_empty_tensor((1,), value.dtype)
    shell = torch.ops.aten.as_strided.default.redispatch(_META, empty, *_layout(value))  # its views are worked out from these
    _values[shell.untyped_storage()._cdata] = value
    return shell


_registered = _register()  # when tests are collected: autograd counts the devices once, at the first backward pass
