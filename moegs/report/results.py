"""Scores as a table for people and as results.json for programs."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moegs.data import Scene
from moegs.expert import Expert
from moegs.io import write_json
from moegs.metrics import FrameScores, bytes_on_disk
from moegs.route.mixture import Mixture, read_manifest
from moegs.train.evaluate import Evaluation

Row = Mapping[str, Any]
PROTOCOL = (
    "PSNR and SSIM are means over frames. ssim: 11x11 Gaussian window, sigma 1.5, zero padding (INRIA). "
    "ms_per_frame: median of whole renders, deformation included."
)
_COLUMNS = {
    "psnr": ("PSNR", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS", "{:.4f}"),
    "gaussians": ("Gaussians", "{:,}"),
    "megabytes": ("MB", "{:.1f}"),
    "ms_per_frame": ("ms a frame", "{:.1f}"),
    "train_seconds": ("train s", "{:.0f}"),
    "tiles": ("tiles drawn", "{:.0%}"),
    "largest_error": ("largest error", "{:.4f}"),
}


def run_header(scene: Scene, backend: str) -> dict[str, Any]:
    """What results.json says before any figure: scene, protocol, command, versions and the rasteriser that ran."""
    return {
        "scene": scene.name,
        "protocol": f"{held_out(scene)}. {PROTOCOL}",
        "command": command_line(),
        "versions": versions(),
        "backend": backend,
    }


def held_out(scene: Scene) -> str:
    """The scene's name and its held-out cameras."""
    return f"{scene.name}, held out: {', '.join(scene.camera_names[i] for i in scene.test)}"


def model_row(
    evaluation: Evaluation, model: Expert | Mixture, path: str | Path, train_seconds: float | None = None
) -> dict[str, Any]:
    """One model's entry in results.json; ``path`` is its file or folder, whose size is what it takes to ship it.

    An infinite PSNR and unknown seconds become null.
    """
    experts = list(model.experts.values()) if isinstance(model, Mixture) else [model]
    return {
        **score_row(evaluation.mean),
        "gaussians": sum(len(e) for e in experts),
        "megabytes": _bytes(Path(path)) / 1e6,
        "ms_per_frame": evaluation.ms_per_frame,
        "train_seconds": train_seconds,
    }


def score_row(scores: FrameScores) -> dict[str, Any]:
    """An entry for something that is no model: scores alone, all conventions under ``scores``."""
    named = {"psnr": _finite(scores.psnr), "ssim": _finite(scores.ssim_inria), "scores": scores.to_json()}
    return named if scores.lpips is None else named | {"lpips": scores.lpips}


def _bytes(path: Path) -> int:
    """Size of a file, or of the files that a mixture's manifest names: checkpoints beside them do not count."""
    if not path.is_dir():
        return bytes_on_disk(path)
    return sum(bytes_on_disk(path / name) for name in ("manifest.json", *read_manifest(path)["sha256"]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def print_table(title: str, rows: Mapping[str, Row], console: Console | None = None) -> None:
    """Print models as rows and scores as columns; what a model does not have is left empty.

    Rows with ``by_expert``, numbers of Gaussians by name, get a column for each expert.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("model", no_wrap=True)
    shown = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows.values())]
    experts = list(dict.fromkeys(name for row in rows.values() for name in row.get("by_expert", ())))
    for heading in (*(_COLUMNS[key][0] for key in shown), *(f"of {name}" for name in experts)):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        cells = ["" if row.get(key) is None else _COLUMNS[key][1].format(row[key]) for key in shown]
        own = row.get("by_expert", {})
        table.add_row(name, *cells, *(f"{own[e]:,}" if e in own else "" for e in experts))
    (console or Console()).print(table)


def versions() -> dict[str, str]:
    """Versions of what a figure depends on, for results.json."""
    packages = ("moegs", "torch", "numpy", "av", "gsplat")
    return {"python": platform.python_version(), "machine": platform.machine()} | {
        name: version for name in packages if (version := _version(name)) is not None
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "moegs":
            from moegs import __version__

            return __version__
        return None


def command_line() -> str:
    """The command that runs now, as one would type it again: quoted, and without the folders that programs lie in.

    ``moegs …``, however it was started; ``python recipes/NAME.py …`` for recipes.
    """
    return shlex.join([*_program(), *sys.argv[1:]])


def _program() -> list[str]:
    script = Path(sys.argv[0]).absolute()
    folder = script.parent.name
    if script.stem == "moegs" or folder == "moegs_cli":
        return ["moegs"]
    if script.name == "__main__.py":
        return ["python", "-m", folder]
    if script.suffix != ".py":
        return [script.name]
    return ["python", f"recipes/{script.name}" if folder == "recipes" else script.name]


def write_results(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write results.json, atomically.

    ``results`` holds ``scene``, ``protocol``, ``command``, ``versions``, ``experts`` (name → :func:`model_row`) and
    ``mixture`` (one such row); further keys are kept.
    """
    write_json(path, dict(results))
