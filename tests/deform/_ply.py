"""A plain reader of the originals' binary .ply files, independent of the package's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def columns(path: Path) -> dict[str, Tensor]:
    """Every property of a little-endian, all-float vertex list."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property")]
    table = torch.from_numpy(np.frombuffer(body, "<f4").reshape(-1, len(names)).copy())
    return dict(zip(names, table.unbind(1), strict=True))


def stacked(cols: dict[str, Tensor], prefix: str, count: int) -> Tensor:
    """Columns ``prefix0`` ... as one matrix."""
    return torch.stack([cols[f"{prefix}{i}"] for i in range(count)], dim=1)


def harmonics_rest(cols: dict[str, Tensor], prefix: str) -> Tensor:
    """Higher harmonics, stored channel by channel, as [n, 15, 3]."""
    return stacked(cols, prefix, 45).unflatten(1, (3, 15)).mT.contiguous()
