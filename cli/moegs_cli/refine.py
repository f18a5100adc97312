"""``moegs refine``: experts and router of a mixture learn on together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import warn_if_other_clip
from ._outputs import MANIFEST, TRAINING, force_option, refuse_to_overwrite, remove_former
from ._scenes import device_option, open_scored, scene_options, training_cameras_named

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.route import Mixture


@click.command(
    short_help="Train experts and router on together.",
    epilog="\b\nExamples:\n"
    "  moegs refine runs/mix --data clip --out runs/refined\n"
    "  moegs refine runs/pruned --data clip --steps 400 --out runs/pruned-refined"
)
@click.argument("mixture", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="The capture that it was trained on.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the result.")
@click.option("--budget", default="small", show_default=True, help="small, medium or full.")
@click.option("--steps", type=click.IntRange(1), default=None, help="Optimisation steps; the budget's by default.")
@click.option(
    "--expert-dropout", type=click.FloatRange(0, 1), default=None, metavar="CHANCE",
    help="That a step goes without one of the experts; 0 to 0.5 by default, the more the fewer photographs there are.",
)
@click.option("--views", default=None, metavar="CAMERAS", help="Learn from these cameras only, separated by commas.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of views.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=None, help="Steps between checkpoints.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Evaluate every n-th frame.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT from its checkpoint, on the CPU bit for bit.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@force_option
@device_option
@scene_options
def refine(
    mixture: Path, data: Path, out: Path, budget: str, resume: bool, quiet: bool, force: bool, **rest: Any
) -> None:  # fmt: skip
    """Train the experts and the router of MIXTURE on together, through the blended picture.

    This goes beyond the paper, whose experts stay as they were trained. Each expert becomes better where the gates trust
    it and may get worse by itself. Numbers of Gaussians stay. OUT receives an ordinary mixture, with refine.json beside
    it. The table is of the held-out cameras.
    """
    from moegs.route import load_mixture, save_mixture
    from moegs.train import refine_budget, refine_mixture

    refuse_to_overwrite(out, resume, force)
    before, scene = load_mixture(mixture, rest["device"]), open_scored(data, rest)
    warn_if_other_clip(before, scene)
    given = {k: rest[k] for k in ("steps", "seed", "checkpoint_every", "expert_dropout") if rest[k] is not None}
    cameras = training_cameras_named(scene, rest["views"], "--views")
    config = replace(refine_budget(budget, scene), **given)
    refined = refine_mixture(scene, before, config, out=out, resume=resume, cameras=cameras, progress=not quiet)
    how = {"every": rest["every"], "progress": not quiet}
    rows = {"before": _row(scene, before, mixture, how)}  # while its files are there: OUT may be MIXTURE
    save_mixture(refined, out, {"scene": scene.name, "n_frames": scene.n_frames, "refine steps": config.steps})
    if force:
        remove_former(out, keep={MANIFEST, *TRAINING})
    _show(scene, rows | {"refined": _row(scene, refined, out, how)}, out)
    click.echo(f"{out}: refined mixture of {', '.join(refined.experts)}")


def _row(scene: Scene, mixture: Mixture, path: Path, how: dict[str, Any]) -> dict[str, Any]:
    from moegs.report import model_row
    from moegs.train import evaluate, mixture_renderer

    return model_row(evaluate(mixture_renderer(mixture), scene, **how), mixture, path)


def _show(scene: Scene, rows: dict[str, Any], out: Path) -> None:
    """The table, and the same as JSON."""
    from moegs.io import write_json
    from moegs.report import command_line, print_table, versions

    print_table(f"{scene.name}, held-out cameras", rows)
    write_json(out / "refine.json", {"command": command_line(), "versions": versions(), "models": rows})
