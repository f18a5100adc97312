"""Finding the files of a run: people point at the run's folder, ``point_cloud``, one iteration, or a file inside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from moegs.errors import ConfigError, FormatError
from moegs.interop._cfg_args import Config, read_config

_ITERATION = re.compile(r"iteration_([0-9]{1,9})")
_CHECKPOINT = re.compile(r"chkpnt_?([0-9]{1,9}|best)\.pth")
_COARSE = "coarse_iteration_"


@dataclass(frozen=True)
class Run:
    """Where one trained model lies.

    Attributes:
        root: the run's folder, as far as it is known.
        folder: the iteration's folder with ``point_cloud.ply``; None where there is none.
        checkpoint: the ``chkpnt*.pth`` that goes with it; None where there is none.
        config: what ``cfg_args`` says.
    """

    root: Path
    folder: Path | None
    checkpoint: Path | None
    config: Config

    @property
    def ply(self) -> Path:
        """The point cloud of the iteration."""
        return self.file("point_cloud.ply")

    def file(self, name: str) -> Path:
        """A file of the iteration's folder.

        Raises:
            FormatError: it is not there.
        """
        path = self.folder / name if self.folder else self.root / "point_cloud" / "iteration_N" / name
        if not path.is_file():
            raise FormatError(f"{path}: no such file; this project always writes one.")
        return path

    def has(self, name: str) -> bool:
        """Whether the iteration's folder holds a file."""
        return self.folder is not None and (self.folder / name).is_file()

    @property
    def iteration(self) -> int | None:
        """Number of training steps, where a name tells."""
        for name, pattern in ((self.folder, _ITERATION), (self.checkpoint, _CHECKPOINT)):
            match = pattern.fullmatch(name.name) if name else None
            if match and match[1].isdigit():
                return int(match[1])
        return None

    def with_config(self, config: Config) -> Run:
        """The same files under another configuration."""
        return replace(self, config=config)


def find_run(path: str | Path, iteration: int | str | None = None) -> Run:
    """Locate a model's files from any path inside its run.

    Without ``iteration`` the last one is taken; coarse stages never are. ``iteration`` is a number, or ``"best"`` for
    ``chkpnt_best.pth``.

    Raises:
        FormatError: nothing of the kind is there, or not that iteration.
        ConfigError: ``iteration`` is neither a number nor ``"best"``.
    """
    path = Path(path)
    _check_iteration(iteration)
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder.")
    if path.is_file() and _CHECKPOINT.fullmatch(path.name):
        return Run(path.parent, None, path, config_in(path.parent))
    folder = path.parent if path.is_file() else path
    if _is_coarse(folder):
        raise FormatError(f"{folder}: a coarse stage, which has no motion; point at an iteration_N folder instead.")
    if (folder / "point_cloud.ply").is_file():
        return _run_of_iteration(folder, iteration)
    return _run_of_root(path, folder, iteration)


def _run_of_iteration(folder: Path, iteration: int | str | None) -> Run:
    if iteration is not None and folder.name != f"iteration_{iteration}":
        raise FormatError(f"{folder}: not iteration {iteration}; point at the run's folder to choose one.")
    root = folder.parent.parent if folder.parent.name == "point_cloud" else folder
    number = _ITERATION.fullmatch(folder.name)
    return Run(root, folder, _beside(root, number[1] if number else None), config_in(root, folder))


def _run_of_root(path: Path, folder: Path, iteration: int | str | None) -> Run:
    clouds = folder if folder.name == "point_cloud" else folder / "point_cloud"
    root = clouds.parent
    found = {int(m[1]): p for p, m in _matches(clouds, _ITERATION) if (p / "point_cloud.ply").is_file()}
    if found and iteration != "best":
        number = max(found) if iteration is None else iteration
        if number not in found:
            raise FormatError(f"{root}: no iteration {iteration}; found {', '.join(map(str, sorted(found)))}.")
        return Run(root, found[number], _beside(root, str(number)), config_in(root))
    return Run(root, None, _checkpoint(path, root, iteration), config_in(root))


def _checkpoint(path: Path, root: Path, iteration: int | str | None) -> Path:
    found = {m[1]: p for p, m in _matches(root, _CHECKPOINT)}
    if not found:
        wanted = "point_cloud/iteration_N/point_cloud.ply or chkpntN.pth"
        raise FormatError(f"{path}: holds no trained model; expected {wanted} in it.")
    if iteration is not None and str(iteration) not in found:
        raise FormatError(f"{root}: no checkpoint {iteration}; found {', '.join(sorted(found))}.")
    last = max(found, key=lambda n: int(n) if n.isdigit() else -1)
    return found[last if iteration is None else str(iteration)]


def _beside(root: Path, number: str | None) -> Path | None:
    path = root / f"chkpnt{number}.pth"
    return path if number and path.is_file() else None


def _matches(folder: Path, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
    entries = folder.iterdir() if folder.is_dir() else []
    return [(p, m) for p in entries if (m := pattern.fullmatch(p.name))]


def _is_coarse(folder: Path) -> bool:
    return folder.name.startswith(_COARSE)


def config_in(*folders: Path) -> Config:
    """The first ``cfg_args`` in some folders; an empty configuration where there is none."""
    for folder in folders:
        if (folder / "cfg_args").is_file():
            return read_config(folder / "cfg_args")
    return Config()


def _check_iteration(iteration: int | str | None) -> None:
    number = isinstance(iteration, int) and not isinstance(iteration, bool) and iteration >= 0
    if iteration is not None and iteration != "best" and not number:
        raise ConfigError(f"option 'iteration': expected a number of steps or 'best', got {iteration!r}.")
