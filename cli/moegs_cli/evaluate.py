"""``moegs eval``: how near a model comes to held-out photographs, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import expert_file, is_mixture, open_model, warn_if_other_clip
from ._scenes import cameras_named, open_scene, scene_options

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.expert import Expert
    from moegs.route import Mixture


@click.command(
    "eval",
    short_help="Score an expert or a mixture on the held-out camera.",
    epilog="\b\nExamples:\n"
    "  moegs eval runs/poly clip\n"
    "  moegs eval runs/mix clip --experts --json > scores.json",
)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--camera", default=None, metavar="CAMERAS", help="Score these cameras, not the held-out ones.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Score every n-th frame.")
@click.option("--experts", is_flag=True, help="Score the experts of a mixture too, and the average and the oracle.")
@click.option("--lpips", default=None, type=click.Path(exists=True, path_type=Path), help="AlexNet weights for LPIPS.")
@click.option("--backend", default="auto", show_default=True, help="Rasteriser: auto, native, reference or gsplat.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, every SSIM by its convention.")
@scene_options
def evaluate(
    model: Path, data: Path, camera: str | None, every: int, experts: bool, lpips: Path | None, backend: str,
    as_json: bool, **clip: Any,
) -> None:  # fmt: skip
    """Score MODEL (an expert or a mixture) on the held-out camera of the capture in DATA.

    Prints PSNR, SSIM (11x11 Gaussian window, zero padding), Gaussians, megabytes on disk and milliseconds a frame.
    LPIPS is not computed without weights: nothing is downloaded.
    """
    from moegs.report import PROTOCOL, command_line, versions
    from moegs.report import print_table as show

    scene = open_scene(data, clip)
    how = {"cameras": cameras_named(scene, camera), "every": every, "backend": backend}
    if lpips is not None:
        from moegs.metrics import load_lpips

        how["perceptual"] = load_lpips(lpips)
    rows = _rows(model, scene, experts, how)
    if as_json:
        head = {"scene": scene.name, "protocol": PROTOCOL, "command": command_line(), "versions": versions()}
        click.echo(json.dumps(head | {"models": rows}, indent=2))
    else:
        show(f"{scene.name}, held-out camera", rows)


def _rows(path: Path, scene: Scene, with_experts: bool, how: dict[str, Any]) -> dict[str, Any]:
    model = open_model(path)
    if not is_mixture(path):
        warn_if_other_clip(model.meta, scene)
        return {model.prior.name: _row(model, expert_file(path), scene, how)}
    rows: dict[str, Any] = {}
    if with_experts:
        from moegs.report import score_row
        from moegs.train import yardsticks

        for name, expert in model.experts.items():
            rows[name] = _row(expert, path / "experts" / f"{name}.safetensors", scene, how)
        found = yardsticks(model, scene, how["cameras"], every=how["every"], backend=how["backend"])
        rows |= {name: score_row(scores) for name, scores in found.items()}
    return rows | {"mixture": _row(model, path, scene, how)}


def _row(model: Expert | Mixture, path: Path, scene: Scene, how: dict[str, Any]) -> dict[str, Any]:
    from moegs.report import model_row
    from moegs.route import Mixture
    from moegs.train import evaluate as measure
    from moegs.train import expert_renderer, mixture_renderer

    mixed = isinstance(model, Mixture)
    renderer = mixture_renderer(model, how["backend"]) if mixed else expert_renderer(model, how["backend"])
    cameras, every, perceptual = how["cameras"], how["every"], how.get("perceptual")
    return model_row(measure(renderer, scene, cameras, every=every, perceptual=perceptual), model, path)
