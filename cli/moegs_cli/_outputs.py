"""What commands that write have in common: nothing that is there already is replaced unless that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ._models import EXPERT_FILE

F = TypeVar("F", bound=Callable[..., Any])
_RUN = ("checkpoint.safetensors", EXPERT_FILE, "manifest.json")


def force_option(command: F) -> F:
    """Add ``--force``, which :func:`refuse_to_replace` takes."""
    return click.option("--force", is_flag=True, help="Replace what is there already.")(command)


def refuse_to_overwrite(out: Path, resume: bool) -> None:
    """A run that is there already is only touched by ``--resume``.

    Raises:
        ConfigError: OUT holds a run and ``--resume`` was not given.
    """
    from moegs.errors import ConfigError

    taken = [name for name in _RUN if (out / name).exists()]
    if taken and not resume:
        raise ConfigError(f"--out: {out} holds {taken[0]} already; add --resume to go on, or name another folder.")


def refuse_to_replace(path: Path | None, force: bool, option: str = "--out") -> None:
    """A file that is there already, or a folder with anything in it, is only written to with ``--force``.

    Raises:
        ConfigError: there is one and ``--force`` was not given.
    """
    from moegs.errors import ConfigError

    if path is None or force or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    what = "is not empty" if path.is_dir() else "exists already"
    raise ConfigError(f"{option}: {path} {what}; add --force to replace what is there, or name another.")
