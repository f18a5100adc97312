"""Opening what was trained, whether it is one expert or a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Say so when a model was trained with other cameras, or on other frames, where its times mean other moments.

    Names of captures do not matter, where an expert knows from where it was seen: one may be renamed, two may have the same.
    """
    from moegs.route import Mixture

    experts = model.experts if isinstance(model, Mixture) else {model.prior.name: model}
    for who, expert in experts.items():
        frames, start, name = (expert.meta.get(key) for key in ("n_frames", "start", "scene"))
        if not _same_rig(expert.meta, scene):
            of = "another of that name" if name in (None, scene.name) else repr(name)
            return _warn(f"{who} was trained on {of}, this is {scene.name!r} with other cameras; give the clip it is of")
        its, here = _span(frames, start), _span(scene.n_frames, None if start is None else scene.start)
        if frames is not None and its != here:
            return _warn(f"{who} was trained on {its}, this clip has {here}; give its --start and --frames")


def _same_rig(meta: dict[str, Any], scene: Scene) -> bool:
    """Whether the cameras that an expert was trained on are among a scene's; those held out may have changed."""
    import torch

    from moegs.interop import viewpoints

    seen, extent = viewpoints(meta), meta.get("extent")
    if seen is not None:
        distances = torch.cdist(seen[:, :3], torch.stack([camera.centre for camera in scene.cameras]))
        return bool((distances.amin(dim=1) <= 1e-3 * scene.extent).all())
    same_name = meta.get("scene") in (None, scene.name)
    return same_name or not isinstance(extent, float) or abs(extent - scene.extent) <= 1e-3 * scene.extent


def _span(frames: int | None, start: int | None) -> str:
    return f"{frames} frames" if start is None else f"{frames} frames from {start} on"


def _warn(message: str) -> None:
    click.echo(f"moegs: warning: {message}", err=True)
