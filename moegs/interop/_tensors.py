"""Reading ``torch.save`` files of strangers: tensors and plain values only, no code, no surprise allocations.

Two locks. First the pickle inside the archive is walked with inert stand-ins: every class or function it names must be
on a short list, and every tensor must fit the bytes that are really there. Only then does ``torch.load`` read it, with
``weights_only=True``, the storages mapped to the CPU, and the NumPy scalars of the originals' learning rates allowed.
"""

from __future__ import annotations

import io
import math
import pickle  # its reader in Python is walked through the file below; nothing that the file names is looked up or called
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moegs.errors import FormatError, MoegsError

PICKLE_LIMIT = 1 << 20  # bytes; the largest original, with its optimiser state, needs about 10000
_ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1,
}  # fmt: skip
_WRITTEN = (
    pickle.PROTO, pickle.STOP, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID, pickle.MARK,
    pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.NONE, pickle.NEWTRUE,
    pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE,
    pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2,
    pickle.TUPLE3, pickle.SETITEM, pickle.SETITEMS, pickle.APPEND, pickle.APPENDS,
)  # fmt: skip


def load_tensors(path: str | Path) -> Any:
    """Read a ``torch.save`` file as nested dicts, lists and tuples of CPU tensors and plain values.

    Raises:
        FormatError: the file is missing, damaged, holds anything but tensors and plain values, or a tensor claims more
            elements than the file stores.
    """
    path = Path(path)
    _scan(path)
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return _plain(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except MoegsError:
        raise
    except Exception as error:  # whatever torch makes of damaged bytes, the caller hears about the file
        raise FormatError(f"{path}: not a readable torch file ({type(error).__name__}: {_brief(error)}).") from None


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict: names to finite tensors.

    Raises:
        FormatError: as :func:`load_tensors`, or the file holds something else, or a value that is not finite.
    """
    state = load_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FormatError(f"{path}: expected a state dict of tensors, got {type(state).__name__}.")
    return {name: finite(path, str(name), value) for name, value in state.items()}


def finite(path: str | Path, name: str, value: Any) -> Tensor:
    """A float32 copy of a tensor that must hold finite numbers.

    Raises:
        FormatError: it is not a floating-point tensor, or a value is not finite.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise FormatError(f"{path}: {name!r}: expected a tensor of floats, got {_describe(value)}.")
    # a copy, because what torch maps from the file is neither aligned nor ours to keep
    value = value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(value).all():
        raise FormatError(f"{path}: {name!r} holds values that are not finite.")
    return value


def expect(path: str | Path, name: str, value: Any, *shape: int | None) -> Tensor:
    """A finite float32 copy of a tensor of this shape (None: any size).

    Raises:
        FormatError: the shape differs, or as :func:`finite`.
    """
    tensor = finite(path, name, value)
    if tensor.ndim != len(shape) or any(s not in (None, t) for s, t in zip(shape, tensor.shape, strict=True)):
        wanted = [("n" if s is None else s) for s in shape]
        raise FormatError(f"{path}: {name!r}: expected shape {wanted}, got {list(tensor.shape)}.")
    return tensor


def _describe(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{type(value).__name__}"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _numpy_scalars() -> list[Any]:
    scalar = np.float64(0).__reduce__()[0]
    renamed = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*renamed, (np.dtype, "numpy.dtype"), type(np.dtype("f8")), type(np.dtype("f4"))]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


# --- the walk ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Global:
    """A class or function that the pickle names; calling it builds an inert stand-in and checks its arguments."""

    name: str
    build: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.build(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    elements: int


class _Mapping(dict):
    """Stands in for OrderedDict, whose ``_metadata`` attribute state dicts set."""


class _Dtype:
    """Stands in for a NumPy dtype."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Takes no notice."""


class _Opcodes(dict[int, Any]):
    """Pickle instructions by number, those that ``torch.save`` writes."""

    def __missing__(self, code: int) -> Any:
        raise FormatError(f"holds the pickle instruction {bytes([code])!r}, which torch.save does not write")


class _Walker(pickle._Unpickler):  # the C one reserves memory for forged indices
    """Unpickles into stand-ins, refusing every name and every instruction that is not on the list."""

    dispatch = _Opcodes({code: pickle._Unpickler.dispatch[code] for code in b"".join(_WRITTEN)})

    def __init__(self, data: bytes, records: dict[str, int]) -> None:
        super().__init__(io.BytesIO(data))
        self._records = records

    def find_class(self, module: str, name: str) -> _Global:
        full = f"{module}.{name}"
        if (module == "torch" and name in _ITEM_BYTES) or full == "torch.storage.UntypedStorage":
            return _Global(name, _refuse_call)
        if full not in _BUILDERS:
            raise FormatError(f"names {full!r}; only tensors and plain values are read")
        return _Global(full, _BUILDERS[full])

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, elements = pid
        size = self._records.get(key)
        if kind != "storage" or size is None:
            raise FormatError(f"refers to a storage {key!r} that is not in the file")
        if not _is_count(elements) or elements * _ITEM_BYTES[storage.name] != size:
            raise FormatError(f"storage {key!r} claims {elements} elements of {storage.name}, but holds {size} bytes")
        return _Storage(key, elements)


def _refuse_call(*_: Any) -> Any:
    raise FormatError("calls a storage type")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> str:
    counts = [offset, *size, *stride]
    if not isinstance(storage, _Storage) or not all(map(_is_count, counts)) or len(size) != len(stride):
        raise FormatError("a tensor with a broken description")
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    if 0 not in size and (reach > storage.elements or math.prod(size) > storage.elements):
        raise FormatError(f"a tensor of shape {list(size)} in a storage of {storage.elements} elements")
    return "tensor"


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda items=(): _Mapping(items),
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": tuple,
    "_codecs.encode": lambda text, encoding: b"",
    "numpy.dtype": lambda *_: _Dtype(),
    "numpy.core.multiarray.scalar": lambda *_: 0.0,
    "numpy._core.multiarray.scalar": lambda *_: 0.0,
}


def _scan(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            data, records = _records(path, archive)
        _Walker(data, records).load()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None
    except FormatError as error:
        raise FormatError(f"{path}: refused: {str(error).rstrip('.')}.") from None
    except Exception as error:  # damaged pickles fail in every way there is
        raise FormatError(f"{path}: not a readable torch file ({type(error).__name__}: {_brief(error)}).") from None


def _records(path: Path, archive: zipfile.ZipFile) -> tuple[bytes, dict[str, int]]:
    """The pickle, and the bytes of each storage."""
    entries = archive.infolist()
    names = [e.filename for e in entries]
    stored = all(e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size for e in entries)
    if not stored or len(set(names)) != len(names) or sum(e.file_size for e in entries) > path.stat().st_size:
        raise FormatError("an archive with packed, repeated or overlapping entries, which torch never writes")
    pickles = [e for e in entries if e.filename.endswith("/data.pkl") and e.filename.count("/") == 1]
    if len(pickles) != 1 or pickles[0].file_size > PICKLE_LIMIT:
        raise FormatError(f"expected one data.pkl of at most {PICKLE_LIMIT} bytes, got {len(pickles)}")
    prefix = pickles[0].filename.removesuffix("data.pkl") + "data/"
    return archive.read(pickles[0]), {n.removeprefix(prefix): e.file_size for n, e in zip(names, entries, strict=True)}
