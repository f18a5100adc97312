"""Models of successive parts of a clip as one expert, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from moegs.deform.polynomial import LIVES
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert
from moegs.gaussians.params import count

_FOLDER = re.compile(r"([0-9]{1,3})of([0-9]{1,3})")


def join_chunks(parts: Sequence[Expert]) -> Expert:
    """One expert of experts with prior ``polynomial`` that each cover a part of the clip, as ``meta["chunk"]`` says.

    Each Gaussian is there in its own part alone, so that at every time exactly one model is drawn.

    Args:
        parts: experts in clip time, see ``chunk`` of :func:`moegs.interop.spacetime.load`; one for every part.

    Raises:
        ConfigError: a part is missing or there twice, or they are drawn in different ways; the message names the setting.
    """
    chunks = [tuple(e.meta.get("chunk", (0, 1))) for e in parts]
    if not parts or sorted(chunks) != [(i, len(parts)) for i in range(len(parts))]:
        raise ConfigError(f"chunks: expected the {len(parts) or 'two or more'} parts of one clip, got {chunks}.")
    first = parts[0]
    if first.decoder is not None:
        raise ConfigError("chunks: full models have a decoder each, which one expert cannot have; join lite ones.")
    for part in parts[1:]:
        for name, own, other in zip(_DRAWN, _drawn(first), _drawn(part), strict=True):
            if own != other:
                raise ConfigError(f"chunks: expected parts with the same {name}, got {own} and {other}.")
    lives = [torch.tensor([[i / n, (i + 1) / n]]).expand(count(e.params), 2) for e, (i, n) in zip(parts, chunks, strict=True)]
    params = {name: torch.cat([e.params[name] for e in parts]) for name in first.params}
    meta = {k: v for k, v in first.meta.items() if k != "chunk"}
    return replace(first, params=params | {LIVES: torch.cat(lives)}, meta=meta)


_DRAWN = ("prior", "options", "background", "decoder", "tensors")


def _drawn(expert: Expert) -> tuple[object, ...]:
    return expert.prior, expert.options, expert.background, expert.decoder, sorted(expert.params)


def split_chunks(expert: Expert) -> list[Expert]:
    """The inverse of :func:`join_chunks`; an expert that was not joined is the only part.

    Raises:
        ConfigError: the lives of its Gaussians are not those of equal parts of the clip, or a part has none left.
    """
    if LIVES not in expert.params:
        return [expert]
    lives = expert.params[LIVES]
    n = round(1 / float((lives[:, 1] - lives[:, 0]).mean()))
    part = (lives[:, 0] * n).round()
    whole = torch.stack([part, part + 1], dim=1) / n
    if not torch.allclose(lives, whole, atol=1e-5) or set(part.int().tolist()) != set(range(n)):
        raise ConfigError(f"tensor {LIVES!r}: expected Gaussians in each of {n} equal parts of the clip and in no other.")
    kept = {k: v for k, v in expert.params.items() if k != LIVES}
    return [
        replace(expert, params={k: v[part == i] for k, v in kept.items()}, meta=expert.meta | {"chunk": [i, n]})
        for i in range(n)
    ]


def chunk_folder(index: int, n: int) -> str:
    """What the run of a part is called."""
    return f"{index}of{n}"


def chunk_folders(path: Path) -> list[Path]:
    """Folders ``0of2``, ``1of2`` in a folder, in order; none if it holds no such.

    Raises:
        FormatError: some are missing.
    """
    if not path.is_dir():
        return []
    counts = {int(m[2]) for p in path.iterdir() if p.is_dir() and (m := _FOLDER.fullmatch(p.name))}
    if not counts:
        return []
    folders = [path / chunk_folder(i, max(counts)) for i in range(max(counts))]
    if missing := [f for f in folders if not f.is_dir()]:
        raise FormatError(f"{missing[0]}: no such folder; it should be beside the other parts of the clip.")
    return folders
