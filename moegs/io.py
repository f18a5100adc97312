"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; on success flush it to disk, rename it into place and flush its folder.

    If the block raises, the temporary file is removed and whatever stood at ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut; nothing where systems cannot do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def finite(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that are not finite, such as the PSNR of equal images: JSON has no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tensors: Mapping[str, Tensor | Callable[[], Tensor]]) -> str:
    """Hex digest of the names, shapes and bytes of tensors; those given as functions are in memory one at a time."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        given = tensors[name]
        value = (given if isinstance(given, Tensor) else given()).detach().cpu().contiguous()
        hasher.update(f"{name}{list(value.shape)}{value.dtype}".encode())
        hasher.update(value.view(-1).numpy().tobytes())
    return hasher.hexdigest()
