"""``moegs eval``: how near a model comes to held-out photographs, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import expert_file, is_mixture, open_expert, warn_if_other_clip
from ._scenes import cameras_named, open_scene, scene_options

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.expert import Expert


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
    how: dict[str, Any] = {"cameras": cameras_named(scene, camera), "every": every}
    rows = _rows(model, scene, experts, how | {"perceptual": _perceptual(lpips)}, backend)
    if as_json:
        head = {"scene": scene.name, "protocol": PROTOCOL, "command": command_line(), "versions": versions()}
        click.echo(json.dumps(head | {"models": rows}, indent=2))
    else:
        show(f"{scene.name}, {camera or 'held-out camera'}", rows)


def _perceptual(weights: Path | None) -> Any:
    if weights is None:
        return None
    from moegs.metrics import load_lpips

    return load_lpips(weights)


def _rows(path: Path, scene: Scene, with_experts: bool, how: dict[str, Any], backend: str) -> dict[str, Any]:
    from moegs.report import model_row, score_row
    from moegs.train import evaluate as measure
    from moegs.train import expert_renderer, mixture_renderer, yardsticks

    def row(expert: Expert, file: Path) -> dict[str, Any]:
        return model_row(measure(expert_renderer(expert, backend), scene, **how), expert, file)

    if not is_mixture(path):
        expert = open_expert(path)
        warn_if_other_clip(expert.meta, scene)
        return {expert.prior.name: row(expert, expert_file(path))}
    from moegs.route import load_mixture

    mixture, rows = load_mixture(path), {}
    if with_experts:
        rows = {name: row(e, path / "experts" / f"{name}.safetensors") for name, e in mixture.experts.items()}
        found = yardsticks(mixture, scene, how["cameras"], every=how["every"], backend=backend)
        rows |= {name: score_row(scores) for name, scores in found.items()}
    return rows | {"mixture": model_row(measure(mixture_renderer(mixture, backend), scene, **how), mixture, path)}
