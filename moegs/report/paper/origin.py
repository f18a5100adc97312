"""By what code, and on what, a figure was measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import moegs
from moegs.render.backends import choose
from moegs.report.results import versions

_SHOWN = ("code", "trained", "versions", "threads", "backend")


def origin(device: str) -> dict[str, Any]:
    """What else decides on a cell's figures: versions, code, threads and the rasteriser."""
    return {
        "versions": versions(), "code": code_digest(), "threads": torch.get_num_threads(),
        "backend": choose(torch.device(device), torch.float32),
    }  # fmt: skip


@cache
def code_digest() -> str:
    """Twelve hex digits that stand for the package's files, which change more often than its version."""
    hasher, root = hashlib.sha256(), Path(moegs.__file__).parent
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".so", ".pyd")):
        hasher.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return hasher.hexdigest()[:12]


def mixed_origins(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs between the origins of cells, a line each; nothing where all were measured alike."""
    lines = []
    for key in _SHOWN:
        counts: dict[str, int] = {}
        for cell in cells:
            value = cell.get(key)
            text = _text(value)
            counts[text] = counts.get(text, 0) + 1
        if len(counts) > 1:
            lines.append(f"{key}: " + "; ".join(f"{text} ({n} cells)" for text, n in counts.items()))
    return lines


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {v}" for key, v in value.items())
    return " and ".join(value) if isinstance(value, list) else str(value)
