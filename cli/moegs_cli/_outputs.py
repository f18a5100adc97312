"""What commands that write have in common: nothing that is there already is replaced unless that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from ._models import EXPERT_FILE

F = TypeVar("F", bound=Callable[..., Any])
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.json"
TRAINING = (CHECKPOINT, "metrics.jsonl")
HALFWAY = tuple(f"halfway/{name}" for name in TRAINING)
CHECKPOINTS = (CHECKPOINT, HALFWAY[0])
RETRAINED = tuple(f"retrained/{name}" for name in (EXPERT_FILE, *TRAINING))
_RESULTS = (EXPERT_FILE, MANIFEST, f".mixture/{MANIFEST}")  # the last is put into place by whoever reads it next
_BESIDE = ("prune.json", CURVE, "curve.png", "refine.json", "distill.json", *HALFWAY, *RETRAINED)


def force_option(command: F) -> F:
    """Add ``--force``, which :func:`refuse_to_replace` and :func:`refuse_to_overwrite` take."""
    return click.option("--force", is_flag=True, help="Replace what is there already.")(command)


def refuse_to_overwrite(out: Path, resume: bool, force: bool | None = None) -> None:
    """A run that is there already is only touched by ``--resume``, and a result without a checkpoint not even then.

    Args:
        out: the folder of the run.
        resume: whether to go on from the checkpoint.
        force: whether to replace what is there; None for a command that has no ``--force``.

    Raises:
        ConfigError: OUT holds a run and ``--resume`` was not given, or a result that no checkpoint leads to.
    """
    from moegs.errors import ConfigError

    _refuse_unwritable(out, "--out")
    taken = [name for name in (*CHECKPOINTS, *_RESULTS) if (out / name).exists()]
    if force or not taken or (resume and not {*CHECKPOINTS}.isdisjoint(taken)):
        return
    advice = "name another folder" if force is None else "name another folder, or add --force to replace what is there"
    if resume:
        raise ConfigError(f"--out: {out} holds {taken[0]} and no {CHECKPOINT} for --resume to go on from; {advice}.")
    raise ConfigError(f"--out: {out} holds {taken[0]} already; add --resume to go on, or {advice}.")


def refuse_to_replace(path: Path | None, force: bool, option: str = "--out") -> None:
    """A file that is there already, or a folder with anything in it, is only written to with ``--force``.

    Raises:
        ConfigError: there is one and ``--force`` was not given, or nothing can be written there.
    """
    from moegs.errors import ConfigError

    if path is not None:
        _refuse_unwritable(path, option)
    if path is None or force or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    what = "is not empty" if path.is_dir() else "exists already"
    raise ConfigError(f"{option}: {path} {what}; add --force to replace what is there, or name another.")


def _refuse_unwritable(path: Path, option: str) -> None:
    """Before hours of work, not after."""
    from moegs.errors import ConfigError

    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    folder = place if place.is_dir() else place.parent
    if place.is_file() and place != path:
        raise ConfigError(f"{option}: {path} cannot be made, {place} is a file.")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option}: {path} cannot be written, {folder} is not yours to write to.")


def refuse_beside_mixture(out: Path) -> None:
    """An expert's file in a mixture's folder would make the folder both.

    Raises:
        ConfigError: OUT is named as an expert's file and lies beside a manifest.
    """
    from moegs.errors import ConfigError

    if out.name == EXPERT_FILE and (out.parent / MANIFEST).exists():
        raise ConfigError(f"--out: {out.parent} holds a mixture; give the file another name or another folder.")


def remove_former(out: Path, keep: Collection[str]) -> None:
    """Remove what moegs wrote into a folder for a former result, for use once the new one is safely there.

    Only files by names that moegs gives go, and of a mixture those that its manifest names. Frames that a teacher left
    in a cache stay: other runs may read them.

    Args:
        out: the folder that ``--force`` was given for.
        keep: names of files of the new result.
    """
    former = [name for name in (EXPERT_FILE, *TRAINING, *_BESIDE) if name not in keep]
    _remove(out, former if MANIFEST in keep else [*_mixture_files(out), *former])


def remove_halfway(out: Path) -> None:
    """Remove what only served to go on with a run, once its result is there."""
    _remove(out, HALFWAY)


def remove_training(*folders: Path) -> None:
    """Remove checkpoints and metrics of runs that had folders of their own, and the folders if nothing else is in them."""
    for folder in reversed(folders):  # those within others first
        _remove(folder, TRAINING)


def _mixture_files(out: Path) -> list[str]:
    """The manifest comes first: without it, the folder is no mixture that lacks files."""
    from moegs.errors import FormatError
    from moegs.route import read_manifest

    with suppress(FormatError):  # there is none, or it is not ours
        return [MANIFEST, *read_manifest(out)["sha256"]]
    return []


def _remove(folder: Path, names: Iterable[str]) -> None:
    for path in (folder / name for name in names):
        if not path.exists():
            continue
        path.unlink()
        with suppress(OSError):  # it holds something else
            path.parent.rmdir()


def given(option: str) -> bool:
    """Whether an option stands on the command line of the command that runs, even with its default."""
    return click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def refuse_without_meaning(*clashes: tuple[bool, str]) -> None:
    """Refuse options that would be ignored beside others.

    Args:
        clashes: whether the options were given so, and what to say of them.

    Raises:
        UsageError: some were; it says the first.
    """
    for met, message in clashes:
        if met:
            raise click.UsageError(message)
