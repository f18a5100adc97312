"""``moegs eval``: how near a model comes to held-out photographs, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import expert_file, is_mixture, open_expert, warn_if_other_clip
from ._scenes import backend_option, cameras_named, device_of, open_scene, scene_options

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.route import Mixture


@click.command(
    "eval",
    short_help="Score an expert or a mixture on the held-out camera.",
    epilog="\b\nExamples:\n"
    "  moegs eval runs/poly clip\n"
    "  moegs eval runs/mix clip --experts --json > scores.json\n"
    "  moegs eval runs/mix clip --min-gate 0.05",
)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--camera", default=None, metavar="CAMERAS", help="Score these cameras, not the held-out ones.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Score every n-th frame.")
@click.option("--experts", is_flag=True, help="Score the experts of a mixture too, and the average and the oracle.")
@click.option(
    "--min-gate", type=float, default=None, metavar="G", help="Also skip experts where their gate is smaller."
)
@click.option("--lpips", default=None, type=click.Path(exists=True, path_type=Path), help="AlexNet weights for LPIPS.")
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, every SSIM by its convention.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@scene_options
def evaluate(
    model: Path, data: Path, camera: str | None, every: int, lpips: Path | None, as_json: bool, **rest: Any
) -> None:  # fmt: skip
    """Score MODEL (an expert or a mixture) on the held-out camera of the capture in DATA.

    Prints PSNR, SSIM (11x11 Gaussian window, zero padding), Gaussians, megabytes on disk and milliseconds a frame.
    LPIPS is not computed without weights: nothing is downloaded. With --min-gate the mixture is scored twice, with all
    gates and with sparse ones, and the share of tiles drawn and the largest difference of a pixel are told.
    """
    from moegs.report import PROTOCOL, command_line, versions
    from moegs.report import print_table as show

    _check_options(model, rest)
    scene = open_scene(data, rest)
    how: dict[str, Any] = {"cameras": cameras_named(scene, camera), "every": every, "progress": not rest["quiet"]}
    rows = _rows(model, scene, how | {"perceptual": _perceptual(lpips)}, rest)
    if as_json:
        head = {"scene": scene.name, "protocol": PROTOCOL, "command": command_line(), "versions": versions()}
        click.echo(json.dumps(head | {"models": rows}, indent=2))
    else:
        show(f"{scene.name}, {camera or 'held-out camera'}", rows)


def _check_options(model: Path, options: dict[str, Any]) -> None:
    """Before anything is scored."""
    gate, mixture = options["min_gate"], is_mixture(model)
    if options["experts"] and not mixture:
        message = f"{model} is one expert, which is scored without it; leave it out or give a mixture."
        raise click.BadParameter(message, param_hint="--experts")
    if gate is not None and not mixture:
        raise click.BadParameter("one expert alone has no gates; give a mixture.", param_hint="--min-gate")
    if gate is not None:
        _check_gate(model, gate)


def _check_gate(mixture: Path, gate: float) -> None:
    from moegs.route import read_manifest

    k = len(read_manifest(mixture)["experts"])
    if not (gate >= 0 and gate * k < 1):  # one of the experts always reaches 1/k
        raise click.BadParameter(f"expected 0 to below 1/{k} for {k} experts, got {gate:g}.", param_hint="--min-gate")


def _perceptual(weights: Path | None) -> Any:
    if weights is None:
        return None
    from moegs.metrics import load_lpips

    return load_lpips(weights)


def _rows(path: Path, scene: Scene, how: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    from moegs.report import model_row
    from moegs.train import evaluate as measure
    from moegs.train import expert_renderer, mixture_renderer

    backend = options["backend"]
    if not is_mixture(path):
        expert = open_expert(path, device_of(backend))
        warn_if_other_clip(expert, scene)
        scores = measure(expert_renderer(expert, backend), scene, **how)
        return {expert.prior.name: model_row(scores, expert, expert_file(path))}
    from moegs.route import load_mixture

    mixture = load_mixture(path, device_of(backend))
    warn_if_other_clip(mixture, scene)
    rows = _expert_rows(mixture, path, scene, how, backend) if options["experts"] else {}
    rows |= {"mixture": model_row(measure(mixture_renderer(mixture, backend), scene, **how), mixture, path)}
    if options["min_gate"] is not None:
        rows |= _sparse_row(mixture, path, scene, how, options)
    return rows


def _expert_rows(mixture: Mixture, path: Path, scene: Scene, how: dict[str, Any], backend: str) -> dict[str, Any]:
    """Every expert by itself, the average and the oracle."""
    from moegs.report import model_row, score_row
    from moegs.train import evaluate as measure
    from moegs.train import expert_renderer, yardsticks

    rows = {}
    for name, expert in mixture.experts.items():
        scores = measure(expert_renderer(expert, backend), scene, **how)
        rows[name] = model_row(scores, expert, path / "experts" / f"{name}.safetensors")
    found = yardsticks(mixture, scene, how["cameras"], every=how["every"], backend=backend, progress=how["progress"])
    return rows | {name: score_row(scores) for name, scores in found.items()}


def _sparse_row(
    mixture: Mixture, path: Path, scene: Scene, how: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The mixture with sparse gates: scores, speed, and how far it is from the exact one."""
    from moegs.report import model_row
    from moegs.train import evaluate as measure
    from moegs.train import sparse_error, sparse_renderer

    gate, backend = options["min_gate"], options["backend"]
    scores = measure(sparse_renderer(mixture, gate, backend), scene, **how)
    again = {"every": how["every"], "backend": backend, "progress": how["progress"]}
    error = sparse_error(mixture, scene, gate, how["cameras"], **again)
    return {f"gates from {gate:g}": model_row(scores, mixture, path) | error}
