"""``moegs prune``: the same mixture with fewer Gaussians."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import warn_if_other_clip
from ._outputs import (
    CURVE,
    HALFWAY,
    MANIFEST,
    TRAINING,
    force_option,
    given,
    refuse_to_overwrite,
    refuse_to_replace,
    refuse_without_meaning,
    remove_former,
    remove_halfway,
)
from ._scenes import Watched, device_option, open_scored, scene_options, training_cameras_named

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.prune import PruneReport
    from moegs.route import Mixture


def _a_number(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"expected a finite number, got {value}.")
    return value


@click.command(
    short_help="Drop the Gaussians that a mixture needs least.",
    epilog="\b\nExamples:\n"
    "  moegs prune runs/mix --data clip --ratio 0.4 --out runs/mix40\n"
    "  moegs prune runs/mix --data clip --ratio 0.55 --refit 2000 --out runs/mix55\n"
    "  moegs prune runs/mix --data clip --ratio 0.55 --criterion gate --rounds 1 --refit 300 --router-only --out runs/mix55\n"
    "  moegs prune runs/mix --data clip --ratio 0.55 --curve --out runs/mix55",
)
@click.argument("mixture", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="The capture that it was trained on.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the result.")
@click.option("--ratio", type=click.FloatRange(0, 1, max_open=True), help="Fraction of all Gaussians to drop.")
@click.option(
    "--threshold", type=float, callback=_a_number,
    help="Drop those with a lower score of --criterion instead. Each run says the highest score that it dropped: prune "
    "once by --ratio to see what scores are like.",
)  # fmt: skip
@click.option(
    "--criterion",
    default="blend",
    show_default=True,
    help="blend (what its absence costs the blended picture), gate (how far its weights move the gate, as in the paper), "
    "gated-contribution (pixels coloured in the blend), contribution (in its expert's picture), opacity or random.",
)
@click.option("--rounds", type=click.IntRange(1), default=8, show_default=True, help="Steps to the ratio.")
@click.option(
    "--refit", type=click.IntRange(0), default=0, show_default=True,
    help="Steps of experts and router together: a quarter of them halfway to RATIO, the others afterwards.",
)  # fmt: skip
@click.option("--router-only", is_flag=True, help="Refit the router alone, as in the paper.")
@click.option("--views", type=click.IntRange(1), default=64, show_default=True, help="Training views to score on.")
@click.option("--cameras", default=None, metavar="CAMERAS", help="Score on and learn from these only, comma-separated.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of views and the refit.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Evaluate every n-th frame.")
@click.option(
    "--curve", is_flag=True,
    help="Also draw curve.png: all criteria over ratios, in one step from each to the next, each then refitted."
)
@click.option("--ratios", default=None, metavar="RATIOS", help="Of the curve, separated by commas.")
@click.option(
    "--resume", is_flag=True,
    help="Continue the refit in OUT from its checkpoint, on the CPU bit for bit, and the curve from its last point.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bars.")
@force_option
@device_option
@scene_options
def prune(
    mixture: Path, data: Path, out: Path, quiet: bool, curve: bool, resume: bool, force: bool, **rest: Any
) -> None:  # fmt: skip
    """Drop the Gaussians that MIXTURE needs least, and show what that costs.

    Scores come from training views, one backward pass each; the table is of the held-out cameras. OUT receives an
    ordinary mixture, with prune.json beside it.
    """
    from moegs.errors import ConfigError
    from moegs.report import print_table
    from moegs.route import load_mixture, save_mixture
    from moegs.train.views import sample_views

    _check_options(curve, rest | {"resume": resume})
    if not (resume and curve and (out / CURVE).exists()):
        refuse_to_overwrite(out, resume, force)
    refuse_to_replace(out, force or resume)
    rest |= {"ratios": _ratios(rest["ratios"]), "quiet": quiet, "resume": resume}
    before, scene = load_mixture(mixture, rest["device"]), open_scored(data, rest)
    warn_if_other_clip(before, scene)
    if rest["criterion"] == "gate" and len(before.experts) == 1:
        raise ConfigError("--criterion gate: the gate of one expert alone never moves; use another criterion.")
    rest["cameras"] = training_cameras_named(scene, rest["cameras"], "--cameras")
    rows = {"before": _row(scene, before, mixture, rest)}  # while its files are there: OUT may be MIXTURE
    sample = sample_views(scene, rest["views"], rest["cameras"], seed=rest["seed"])
    views = Watched(sample, "scoring Gaussians", not quiet)
    pruned, report = _pruned(scene, before, views, rest | {"out": out})
    save_mixture(pruned, out, {"scene": scene.name, "n_frames": scene.n_frames, "pruned": report.to_json()})
    if force:
        remove_former(out, keep={MANIFEST, *((*TRAINING, *HALFWAY) if rest["refit"] else ())})
    rows["after"] = _row(scene, pruned, out, rest)
    print_table(f"{scene.name}, held-out cameras", rows)
    _tell(report, rows, rest["criterion"], out)
    if curve:
        _curve(before, scene, views, rest, out)
    remove_halfway(out)


def _check_options(curve: bool, options: dict[str, Any]) -> None:
    """Before anything is read or measured."""
    from moegs.errors import ConfigError
    from moegs.prune import criterion

    by_ratio, refit = options["threshold"] is None, options["refit"] > 0
    refuse_without_meaning(
        (options["router_only"] and not refit, "--router-only: says what --refit trains; add --refit STEPS."),
        (options["resume"] and not (refit or curve), "--resume: goes on with --refit or --curve; leave it out."),
        (options["ratios"] is not None and not curve, "--ratios: are those of --curve; add --curve."),
        (not by_ratio and given("rounds"), "--rounds: lead to a --ratio; --threshold drops in one step, leave one out."),
    )
    if (options["ratio"] is None) == by_ratio:
        raise ConfigError("prune: expected either --ratio or --threshold.")
    criterion(options["criterion"])  # says which there are


def _pruned(
    scene: Scene, mixture: Mixture, views: Watched, options: dict[str, Any]
) -> tuple[Mixture, PruneReport]:  # fmt: skip
    from moegs.prune import criterion, prune_and_refit, refit
    from moegs.prune import prune as drop

    score, ratio, threshold = criterion(options["criterion"], options["seed"]), options["ratio"], options["threshold"]
    if threshold is not None:
        pruned, report = drop(mixture, score(mixture, views), threshold=threshold)
        return refit(scene, pruned, options["refit"], **_refitting(options)), report
    how = _refitting(options)
    return prune_and_refit(
        scene, mixture, score, views, ratio=ratio, rounds=options["rounds"], steps=options["refit"], **how
    )


def _refitting(options: dict[str, Any]) -> dict[str, Any]:
    return {k: options[k] for k in ("router_only", "seed", "cameras", "out", "resume")} | {"progress": not options["quiet"]}


def _row(scene: Scene, mixture: Mixture, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    from moegs.report import model_row
    from moegs.train import evaluate, mixture_renderer

    scores = evaluate(mixture_renderer(mixture), scene, every=options["every"], progress=not options["quiet"])
    return model_row(scores, mixture, path) | {"by_expert": {name: len(e) for name, e in mixture.experts.items()}}


def _tell(report: PruneReport, rows: dict[str, Any], criterion: str, out: Path) -> None:
    """What was dropped beside the table, and that and the table as JSON."""
    from moegs.io import write_json
    from moegs.report import command_line, versions

    if report.largest_dropped is not None:
        click.echo(f"{out}: {report.dropped:,} Gaussians gone, up to a {criterion} score of {report.largest_dropped:.4g}")
    for name in report.emptied:
        click.echo(f"moegs: warning: {name} lost every Gaussian and left the mixture", err=True)
    head = {"command": command_line(), "versions": versions(), "criterion": criterion}
    write_json(out / "prune.json", head | {"report": report.to_json(), "models": rows})


def _curve(
    mixture: Mixture, scene: Scene, views: Watched, options: dict[str, Any], out: Path
) -> None:  # fmt: skip
    """Drawn at the end, written down point by point, so that ``--resume`` need not find them again."""
    from moegs.prune import pruning_curve, refit, write_curve
    from moegs.prune.curve import read_points, suited, write_points
    from moegs.report import command_line, versions
    from moegs.route.mixture import mixture_key

    settings = {k: options[k] for k in ("refit", "router_only", "views", "cameras", "seed", "every")}
    asked = json.loads(json.dumps(settings | {"mixture": mixture_key(mixture)}))
    head = {"command": command_line(), "versions": versions(), "scene": scene.name, "settings": asked}
    how = _refitting(options | {"out": None, "resume": False})
    points = pruning_curve(
        mixture, scene, views, options["ratios"], criteria=suited(mixture, options["seed"]),
        refit=lambda m: refit(scene, m, options["refit"], **how), every=options["every"],
        known=read_points(out, asked) if options["resume"] else (),
        keep=lambda found: write_points(found, out, head), progress=not options["quiet"],
    )  # fmt: skip
    write_curve(points, out, head)
    click.echo(f"{out / 'curve.png'}: figures in curve.json")


def _ratios(text: str | None) -> tuple[float, ...]:
    from moegs.errors import ConfigError
    from moegs.prune.curve import RATIOS

    try:
        ratios = RATIOS if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        ratios = (-1.0,)
    if not all(0 <= r < 1 for r in ratios):
        raise ConfigError(f"--ratios: expected numbers from 0 to below 1, separated by commas, got {text!r}.")
    return ratios
