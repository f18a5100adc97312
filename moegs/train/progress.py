"""A progress bar for people and JSON lines for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moegs.io import atomic_write, finite

SCREEN = Console(stderr=True)  # one for all, so that a bar that comes while another is shown stands below it


@contextmanager
def training_bar(title: str, total: int, start: int = 0, enabled: bool = True) -> Iterator[Any]:
    """A bar that shows loss, PSNR, Gaussians and time left, on stderr; yields ``update(step, **numbers)``."""
    if not enabled:  # rich ends a line even of a bar that is never shown
        yield lambda step, **numbers: None
        return
    columns = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    ]  # fmt: skip
    with Progress(*columns, console=SCREEN, transient=False) as progress:
        task = progress.add_task(title, total=total, completed=start, numbers="")

        def update(step: int, **numbers: float) -> None:
            text = "  ".join(f"{k} {_short(v)}" for k, v in numbers.items())
            progress.update(task, completed=step, numbers=text)

        yield update


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


class MetricsLog:
    """Append-only JSON lines, one object a line with its ``step``; a resumed run forgets what came after its checkpoint."""

    def __init__(self, path: Path, resume_at: int | None = None):
        kept = [] if resume_at is None else _lines_until(path, resume_at)
        with atomic_write(path) as file:
            file.write("".join(kept).encode())
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - lives as long as the run

    def write(self, **numbers: Any) -> None:
        """Append one line; what is not finite, such as the PSNR of equal images, becomes null."""
        self._file.write(json.dumps(finite(numbers), allow_nan=False) + "\n")

    def close(self) -> None:
        """Flush to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            break  # the line that was being written when the run was killed
    return kept
