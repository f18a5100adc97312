"""Models of successive parts of a clip as one expert, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from moegs.deform.polynomial import LIVES
from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians.params import count


def join_chunks(parts: Sequence[Expert]) -> Expert:
    """One expert of experts with prior ``polynomial`` that each cover a part of the clip, as ``meta["chunk"]`` says.

    Each Gaussian is there in its own part alone, so that at every time exactly one model is drawn.

    Args:
        parts: experts in clip time, see ``chunk`` of :func:`moegs.interop.spacetime.load`; one for every part.

    Raises:
        ConfigError: a part is missing or there twice, or they are drawn in different ways.
    """
    chunks = [tuple(e.meta.get("chunk", (0, 1))) for e in parts]
    if sorted(chunks) != [(i, len(parts)) for i in range(len(parts))]:
        raise ConfigError(f"chunks: expected the {len(parts)} parts of one clip, got {chunks}.")
    first = parts[0]
    for part in parts:
        if (part.prior, part.options, part.background, part.decoder) != (first.prior, first.options, first.background, None):
            raise ConfigError("chunks: expected parts with equal settings and without decoders, which differ by part.")
    lives = [torch.tensor([[i / n, (i + 1) / n]]).expand(count(e.params), 2) for e, (i, n) in zip(parts, chunks, strict=True)]
    params = {name: torch.cat([e.params[name] for e in parts]) for name in first.params}
    meta = {k: v for k, v in first.meta.items() if k != "chunk"} | {"chunks": len(parts)}
    return replace(first, params=params | {LIVES: torch.cat(lives)}, meta=meta)


def split_chunks(expert: Expert) -> list[Expert]:
    """The inverse of :func:`join_chunks`; an expert that was not joined is the only part."""
    n = int(expert.meta.get("chunks", 1))
    if LIVES not in expert.params:
        return [expert]
    starts = (expert.params[LIVES][:, 0] * n).round()
    kept = {k: v for k, v in expert.params.items() if k != LIVES}
    return [
        replace(expert, params={k: v[starts == i] for k, v in kept.items()}, meta=expert.meta | {"chunk": [i, n]})
        for i in range(n)
    ]
