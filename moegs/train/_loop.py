"""The loop that all kinds of training share: steps, what is shown of them, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moegs.errors import ConfigError
from moegs.train.checkpoint import NAME, Checkpoint, save_checkpoint
from moegs.train.memory import freed_memory_kept
from moegs.train.progress import MetricsLog, training_bar


class Run(Protocol):
    """Whatever changes while something trains."""

    step: int


@dataclass(frozen=True)
class Pace:
    """How long a run is, and how often it shows and keeps what it has.

    Attributes:
        title: what trains, for people.
        steps: of the whole run.
        show_every: steps between figures, which are measured only then.
        checkpoint_every: steps between checkpoints.
    """

    title: str
    steps: int
    show_every: int
    checkpoint_every: int


def run_folder(out: str | Path | None, resume: bool) -> Path | None:
    """Where a run writes, if it does.

    Raises:
        ConfigError: it is to resume, and there is nowhere to resume from.
    """
    if resume and out is None:
        raise ConfigError("resume: a run goes on from the checkpoint in its folder; name it (out=...).")
    return None if out is None else Path(out)


def train_loop(
    run: Run,
    pace: Pace,
    take_step: Callable[[bool], dict[str, Any]],
    snapshot: Callable[[], Checkpoint],
    *,
    folder: Path | None,
    resume: bool,
    progress: bool,
) -> None:
    """Take the steps that are left.

    Args:
        run: its ``step`` counts the steps taken.
        pace: length and intervals.
        take_step: takes one step; returns figures if it is asked to.
        snapshot: state to write.
        folder: where checkpoint and ``metrics.jsonl`` go; nothing is written without it.
        resume: keep the metrics up to the step that the run stands at; otherwise metrics and checkpoint of a former run go.
        progress: show a bar.
    """
    log = None if folder is None else MetricsLog(folder / "metrics.jsonl", run.step if resume else None)
    if folder is not None and not resume:  # a former run's would be gone on from if this one ended before its first
        (folder / NAME).unlink(missing_ok=True)
    try:
        with freed_memory_kept(), training_bar(pace.title, pace.steps, run.step, progress) as show:
            while run.step < pace.steps:
                last = run.step + 1 == pace.steps
                shown = last or (run.step + 1) % pace.show_every == 0
                numbers = take_step(shown)
                run.step += 1
                if shown:
                    show(run.step, **numbers)
                    if log is not None:
                        log.write(step=run.step, **numbers)
                if folder is not None and (last or run.step % pace.checkpoint_every == 0):
                    save_checkpoint(folder / NAME, snapshot())
    finally:
        if log is not None:
            log.close()
