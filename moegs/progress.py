"""A progress bar that only appears when the work takes long enough to wonder about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE = 2.0  # seconds of silence
T = TypeVar("T")


def tracked(items: Iterable[T], what: str, total: int, enabled: bool = True) -> Iterator[T]:
    """The items one by one, under a :func:`progress_bar`."""
    with progress_bar(what, total, enabled) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def progress_bar(what: str, total: int, enabled: bool = True) -> Iterator[Callable[[], None]]:
    """Give a function to call after each of ``total`` steps; shows a bar on stderr once two seconds have passed."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, began = bar.add_task(what, total=total), time.monotonic()

    def advance() -> None:
        bar.advance(task)
        if enabled and not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:  # rich ends a line even of a bar that was never shown
            bar.stop()
