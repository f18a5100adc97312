"""Checkpoints of running training: one safetensors file, replaced atomically, continued bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moegs.errors import ConfigError, FormatError, ShapeError
from moegs.io import atomic_write

FORMAT, VERSION, NAME = "moegs-training", 1, "checkpoint.safetensors"
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of Adam and RAdam
_ADVICE = "delete it to start over"


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after ``step`` steps.

    Attributes:
        step: steps completed.
        tensors: everything that changes, by name (``params/…``, ``adam/…``, ``stats/…``, ``rng``).
        run: what the run was asked to do; a resumed run must be asked the same.
    """

    step: int
    tensors: dict[str, Tensor]
    run: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below a prefix, without it."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + "/")}

    def moments(self, prefix: str) -> dict[str, dict[str, Tensor]]:
        """What an optimiser remembers below a prefix: by tensor, then by moment."""
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in self.part(prefix).items():
            name, _, moment = key.rpartition("/")
            state.setdefault(name, {})[moment] = value
        return state


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a kill at any moment leaves the previous checkpoint whole."""
    header = {"format": FORMAT, "version": VERSION, "step": checkpoint.step, "run": checkpoint.run}
    tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"moegs": json.dumps(header)}))


def load_checkpoint(path: Path, run: dict[str, Any]) -> Checkpoint:
    """Read a checkpoint and make sure that it belongs to this run.

    Raises:
        FormatError: the file is cut short or not a checkpoint.
        ConfigError: it was written by a run with other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("moegs", "{}"))
            # tensors in the mapping are unaligned, and sums over them would round differently
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise FormatError(f"{path}: not a readable checkpoint ({error}); {_ADVICE}.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        raise FormatError(f"{path}: expected {FORMAT} version {VERSION}, its metadata says {str(header)[:60]}.")
    step, saved_run = header.get("step"), header.get("run")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise FormatError(f"{path}: metadata field 'step': expected a number of steps, got {step!r}; {_ADVICE}.")
    if not isinstance(saved_run, dict):
        raise FormatError(f"{path}: metadata field 'run': expected dict, got {saved_run!r}; {_ADVICE}.")
    _same_run(path, saved_run, run)
    return Checkpoint(step, tensors, saved_run)


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """While a run takes over its checkpoint in a folder: what does not fit becomes one error about the file.

    Raises:
        FormatError: the block met a tensor that is missing, or does not fit.
    """
    try:
        yield
    except (ConfigError, FormatError, MemoryError):
        raise
    except Exception as error:  # strange tensors fail in every way there is
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise FormatError(f"{folder / NAME}: does not fit this run ({reason}); {_ADVICE}.") from error


def same_kind(name: str, found: Tensor, like: Tensor, rows: int | None = None) -> None:
    """Hold a saved tensor against what a fresh run has in its place; with ``rows`` in so many rows.

    Raises:
        ShapeError: it has another type or shape.
    """
    shape = list(like.shape) if rows is None else [rows, *like.shape[1:]]
    if found.dtype != like.dtype or list(found.shape) != shape:
        raise ShapeError(f"tensor {name!r}: expected {like.dtype} {shape}, got {found.dtype} {list(found.shape)}")


def all_moments(state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Make sure that what an optimiser remembers of a tensor is complete, or nothing.

    Raises:
        ShapeError: a moment is missing or unknown.
    """
    for name, moments in state.items():
        if moments and set(moments) != _MOMENTS:
            raise ShapeError(f"moments of {name!r}: expected {sorted(_MOMENTS)}, got {sorted(moments)}")


def _same_run(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    advice = "use the same settings to resume, or another output folder."
    if kinds := set(found) ^ set(asked):
        kind = min(kinds)
        whose = "only that one" if kind in found else "only this one"
        raise ConfigError(f"{path}: is of another kind of run: {whose} has settings of {kind!r}; {advice}")
    if difference := _difference(found, json.loads(json.dumps(asked))):
        key, before, now = difference
        if {len(str(v)) for v in (before, now)} == {64}:  # hashes tell nobody anything
            raise ConfigError(f"{path}: is of a run with another {key.replace('.', ': ')}; {advice}")
        raise ConfigError(f"{path}: was written with {key} = {before!r}, this run asks for {now!r}; {advice}")


def _difference(found: Any, asked: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first setting that differs, by its dotted name, and both values; None if there is none."""
    if not (isinstance(found, dict) and isinstance(asked, dict)):
        return None if found == asked else (key, found, asked)
    inner = sorted(set(found) | set(asked), key=lambda k: (k != "steps", k))  # much else follows from them
    each = (_difference(found.get(k), asked.get(k), f"{key}.{k}".lstrip(".")) for k in inner)
    return next((d for d in each if d is not None), None)
