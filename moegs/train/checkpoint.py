"""Checkpoints of running training: one safetensors file, replaced atomically, continued bit for bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moegs.errors import ConfigError, FormatError
from moegs.io import atomic_write

FORMAT, VERSION = "moegs-training", 1


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
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise FormatError(f"{path}: not a readable checkpoint ({error}); delete it to start over.") from None
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise FormatError(f"{path}: expected {FORMAT} version {VERSION}, got {header.get('format')!r}.")
    _same_run(path, header["run"], run)
    return Checkpoint(header["step"], tensors, header["run"])


def _same_run(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    asked = json.loads(json.dumps(asked))
    for key in sorted(set(found) | set(asked)):
        if found.get(key) != asked.get(key):
            raise ConfigError(
                f"{path}: was written with {key} = {found.get(key)!r}, this run asks for {asked.get(key)!r}; "
                "use the same settings to resume, or another output folder."
            )
