"""Opening what was trained, whether it is one expert or a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.expert import Expert
    from moegs.route import Mixture

EXPERT_FILE = "expert.safetensors"


def expert_file(path: Path) -> Path:
    """The expert's file: the path itself, or ``expert.safetensors`` in a folder that ``moegs train`` wrote."""
    return path / EXPERT_FILE if path.is_dir() else path


def is_mixture(path: Path) -> bool:
    """Whether a path is a mixture's folder."""
    unfinished = path / ".mixture" / "manifest.json"  # put into place by whoever reads it next
    return (path / "manifest.json").exists() or unfinished.exists()


def open_expert(path: Path, device: str = "cpu") -> Expert:
    """Read an expert's file or a training run's folder.

    Raises:
        FormatError: it is neither, or damaged.
    """
    from moegs.errors import FormatError
    from moegs.expert import load_expert

    if path.is_dir() and not expert_file(path).exists():
        raise FormatError(f"{path}: expected manifest.json (a mixture) or {EXPERT_FILE} (a finished expert) in it.")
    return load_expert(expert_file(path), device)


def open_only_expert(path: Path, device: str = "cpu") -> Expert:
    """Read an expert where a mixture will not do.

    Raises:
        FormatError: it is a mixture, or neither.
    """
    from moegs.errors import FormatError

    if is_mixture(path) and not expert_file(path).exists():
        raise FormatError(f"{path}: is a mixture, expected an expert; its own are {path}/experts/*.safetensors.")
    return open_expert(path, device)


def open_model(path: Path, device: str = "cpu") -> Expert | Mixture:
    """Read an expert's file, a training run's folder or a mixture's folder.

    Raises:
        FormatError: it is none of them, or damaged.
    """
    if is_mixture(path):
        from moegs.route import load_mixture

        return load_mixture(path, device)
    return open_expert(path, device)


def warn_if_other_clip(model: Expert | Mixture, scene: Scene) -> None:
    """Say so when a model was trained on another number of frames, where its times mean other moments, or another scene.

    A capture that only was renamed has cameras as far apart as before.
    """
    from moegs.route import Mixture

    for expert in model.experts.values() if isinstance(model, Mixture) else [model]:
        frames, name, extent = (expert.meta.get(key) for key in ("n_frames", "scene", "extent"))
        if frames is not None and frames != scene.n_frames:
            advice = "give the --start and --frames it was trained with"
            return _warn(f"trained on {frames} frames, this clip has {scene.n_frames}; {advice}")
        same_rig = isinstance(extent, float) and abs(extent - scene.extent) <= 1e-3 * scene.extent
        if name is not None and name != scene.name and not same_rig:
            return _warn(f"trained on {name!r}, this is {scene.name!r} with other cameras; give the clip it was trained on")


def _warn(message: str) -> None:
    click.echo(f"moegs: warning: {message}", err=True)
