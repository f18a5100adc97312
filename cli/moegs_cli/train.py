"""``moegs train``: one expert from a capture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import EXPERT_FILE
from ._outputs import refuse_to_overwrite
from ._scenes import device_option, open_scene, scene_options, stacking_cameras, training_cameras_named

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.deform import Prior
    from moegs.train import FitConfig


@click.command(
    short_help="Train one expert on a capture.",
    epilog="\b\nExamples:\n"
    "  moegs train clip --prior polynomial --out runs/poly\n"
    "  moegs train clip --prior interpolation --out runs/keys --steps 3000 --seed 1\n"
    "  moegs train clip --prior polynomial --set sh_degree=1 --set lr_motion=4e-4 --out runs/plain\n"
    "  moegs train clip --prior polynomial --leave-out 4 --out runs/stacked\n"
    "  moegs train clip --prior polynomial --out runs/poly --resume"
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--prior", required=True, help="Motion prior: polynomial, interpolation, hexplane, embedding or reformulation."
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the run.")
@click.option("--budget", default="small", show_default=True, help="small, medium or full.")
@click.option("--steps", type=click.IntRange(1), default=None, help="Optimisation steps; the budget's by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of views and all randomness.")
@click.option("--max-gaussians", type=click.IntRange(1), default=None, help="Hard cap; the budget's by default.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the prior; may be repeated.")
@click.option("--views", default=None, metavar="CAMERAS", help="Train on these cameras only, separated by commas.")
@click.option(
    "--leave-out", default=None, metavar="N|CAMERAS",
    help="Keep so many training cameras, or these, for a router (route --router-views).",
)
@click.option(
    "--antialias/--no-antialias", default=True, show_default=True,
    help="A filter as narrow as a pixel; or 3D Gaussian Splatting's, which viewers of .ply files and the originals have.",
)
@click.option("--checkpoint-every", type=click.IntRange(1), default=None, help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT from its checkpoint, on the CPU bit for bit.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@device_option
@scene_options
def train(
    data: Path, prior: str, out: Path, budget: str, settings: tuple[str, ...], resume: bool, quiet: bool, **rest: Any
) -> None:  # fmt: skip
    """Train one expert on the capture in DATA.

    OUT receives expert.safetensors, and while it trains checkpoint.safetensors and metrics.jsonl. A run that was
    interrupted, even killed, continues with the same command and --resume.
    """
    from moegs.expert import save_expert
    from moegs.train import budget as plan
    from moegs.train import fit_expert

    refuse_to_overwrite(out, resume)
    scene = open_scene(data, rest)
    chosen, config = plan(budget, scene, prior)
    cameras, left_out = _cameras(scene, rest["views"], rest["leave_out"])
    expert = fit_expert(
        scene, with_settings(chosen, settings), _overridden(config, rest), out=out, resume=resume, cameras=cameras,
        device=rest["device"], progress=not quiet,
    )  # fmt: skip
    save_expert(replace(expert, meta=expert.meta | left_out), out / EXPERT_FILE)
    click.echo(f"{out / EXPERT_FILE}: {prior}, {len(expert):,} Gaussians after {expert.meta['steps']:,} steps")


def _cameras(
    scene: Scene, views: str | None, leave_out: str | None
) -> tuple[tuple[int, ...] | None, dict[str, list[str]]]:
    """Cameras to train on (None for all), and the note in the expert's file on those that were kept from it."""
    from moegs.errors import ConfigError

    if leave_out is None:
        chosen = training_cameras_named(scene, views, "--views")
        unseen = [] if chosen is None else [scene.camera_names[i] for i in scene.train if i not in chosen]
        return chosen, {"left_out": unseen} if unseen else {}
    if views is not None:
        raise ConfigError("--leave-out: give either --views or --leave-out.")
    experts, router = stacking_cameras(scene, leave_out, "--leave-out")
    return experts, {"left_out": [scene.camera_names[i] for i in router]}


def with_settings(prior: Prior, settings: tuple[str, ...]) -> Prior:
    """A prior with options changed by ``KEY=VALUE``; values are JSON, or plain text where they are not.

    Raises:
        ConfigError: an entry is not KEY=VALUE, or the prior knows no such option.
    """
    from moegs.deform import from_config, to_config

    return from_config(prior.name, to_config(prior) | dict(key_value("--set", entry) for entry in settings))


def key_value(option: str, entry: str) -> tuple[str, Any]:
    """Split KEY=VALUE and read the value."""
    from moegs.errors import ConfigError

    key, equals, text = entry.partition("=")
    if not (key and equals):
        raise ConfigError(f"{option}: expected KEY=VALUE, got {entry!r}.")
    try:
        return key, json.loads(text)
    except json.JSONDecodeError:
        return key, text


def _overridden(config: FitConfig, options: dict[str, Any]) -> FitConfig:
    from moegs.render import RasterOptions

    if options["max_gaussians"] is not None:
        config = replace(config, densify=replace(config.densify, max_gaussians=options["max_gaussians"]))
    if not options["antialias"]:
        config = replace(config, options=RasterOptions())
    given = {k: options[k] for k in ("steps", "seed", "checkpoint_every") if options[k] is not None}
    return replace(config, **given)
