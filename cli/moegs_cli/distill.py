"""``moegs distill``: one expert learns what the whole mixture knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import EXPERT_FILE, expert_file, open_only_expert, warn_if_other_clip
from ._outputs import (
    RETRAINED,
    TRAINING,
    force_option,
    given,
    refuse_to_overwrite,
    refuse_without_meaning,
    remove_former,
)
from ._scenes import device_option, open_scored, scene_options

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.distill import DistillConfig
    from moegs.expert import Expert
    from moegs.route import Mixture


@click.command(
    short_help="Teach one expert what the mixture knows.",
    epilog="\b\nExamples:\n"
    "  moegs distill runs/mix --data clip --into polynomial --out runs/taught\n"
    "  moegs distill runs/mix --data clip --into interpolation --from-scratch --compare --out runs/taught",
)
@click.argument("mixture", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="The capture that it was trained on.")
@click.option("--into", required=True, metavar="NAME", help="An expert of the mixture, which goes on, or a prior.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the run.")
@click.option("--from-scratch", is_flag=True, help="Start from the points although NAME is trained.")
@click.option(
    "--student", type=click.Path(exists=True, path_type=Path), default=None, metavar="EXPERT",
    help="Go on with this expert in the place of NAME, such as NAME before refinement.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=None, help="Optimisation steps; the budget's by default.")
@click.option("--budget", default="small", show_default=True, help="small, medium or full.")
@click.option(
    "--weight", type=click.FloatRange(0, 1), default=0.5, show_default=True,
    help="Share of the photograph's term; the rest is the mixture's.",
)
@click.option(
    "--adopt", type=click.FloatRange(0, 1), default=0.5, show_default=True,
    help="Gaussians of the other experts that the student tries, as a share of its own; 0 for the paper's way.",
)  # fmt: skip
@click.option(
    "--between", type=click.FloatRange(0), default=0.0, show_default=True,
    help="Cameras for each training camera, added between them, where MIXTURE alone teaches.",
)  # fmt: skip
@click.option("--compare", is_flag=True, help="Also train the same student for as long on photographs alone.")
@click.option(
    "--teacher-cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the mixture's frames and gates are kept; OUT/teacher by default.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of views and all randomness.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=None, help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT from its checkpoint.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@force_option
@device_option
@scene_options
def distill(
    mixture: Path, data: Path, into: str, out: Path, from_scratch: bool, compare: bool, resume: bool, quiet: bool,
    force: bool, student: Path | None, **rest: Any,
) -> None:  # fmt: skip
    """Teach one expert: photographs where MIXTURE trusts it, the mixture's own frames elsewhere.

    A trained expert first tries Gaussians of the others beside its own, and is as large as it was in the end.
    OUT receives expert.safetensors (with --compare also retrained/expert.safetensors), checkpoints and distill.json.
    The table is of the held-out cameras.
    """
    from moegs.distill import distill as teach
    from moegs.distill import retrain, student_of
    from moegs.expert import save_expert
    from moegs.route import load_mixture

    refuse_without_meaning(
        (from_scratch and given("adopt"),
         "--adopt: adds Gaussians to a trained student's, --from-scratch starts without any; leave one out."),
        (from_scratch and student is not None, "--student: goes on where it stands, --from-scratch does not; leave one out."),
    )  # fmt: skip
    refuse_to_overwrite(out, resume, force)
    if compare:
        refuse_to_overwrite(out / "retrained", resume, force)
    teacher = load_mixture(mixture, rest["device"])
    expert = None if student is None else open_only_expert(student, rest["device"])
    scene = open_scored(data, rest)
    warn_if_other_clip(teacher, scene)
    if expert is not None:
        warn_if_other_clip(expert, scene)
    config = _config(teacher, scene, into, rest)
    taught = student_of(teacher, into, config.fit, n_frames=scene.n_frames, from_scratch=from_scratch, expert=expert)
    if taught.start is None and given("adopt"):
        raise click.UsageError(f"--adopt: adds Gaussians to a trained student's; {into} starts without any, leave it out.")
    how: dict[str, Any] = {"from_scratch": from_scratch, "resume": resume, "progress": not quiet, "expert": expert}
    cache = rest["teacher_cache"] or out / "teacher"
    done = teach(teacher, scene, into, config, cache=cache, out=out, **how)
    rows = {}
    if taught.expert is not None:  # while its file is there: OUT may be where it lies
        file = mixture / "experts" / f"{taught.expert}.safetensors" if student is None else expert_file(student)
        rows["before"] = _row(scene, expert or teacher.experts[taught.expert], file, not quiet)
    save_expert(done, out / EXPERT_FILE)
    rows["distilled"] = _row(scene, done, out / EXPERT_FILE, not quiet)
    if compare:
        file, alone = out / "retrained" / EXPERT_FILE, retrain(teacher, scene, into, config, out=out / "retrained", **how)
        save_expert(alone, file)
        rows["retrained"] = _row(scene, alone, file, not quiet)
    _show(teacher, mixture, scene, rows, out, not quiet)
    if force:  # not before: OUT may be MIXTURE, which was measured too
        remove_former(out, keep={EXPERT_FILE, "distill.json", *TRAINING, *(RETRAINED if compare else ())})
    click.echo(f"{out / EXPERT_FILE}: {len(done):,} Gaussians, taught by {mixture}")


def _config(teacher: Mixture, scene: Scene, into: str, options: dict[str, Any]) -> DistillConfig:
    from dataclasses import replace

    from moegs.distill import DistillConfig
    from moegs.train import budget

    prior = teacher.experts[into].prior.name if into in teacher.experts else into
    _, fit = budget(options["budget"], scene, prior)
    every = options["checkpoint_every"] or fit.checkpoint_every
    fit = replace(fit, seed=options["seed"], steps=options["steps"] or fit.steps, checkpoint_every=every)
    return DistillConfig(fit=fit, **{name: options[name] for name in ("weight", "adopt", "between")})


def _row(scene: Scene, expert: Expert, path: Path, progress: bool) -> dict[str, Any]:
    from moegs.report import model_row
    from moegs.train import evaluate, expert_renderer

    return model_row(evaluate(expert_renderer(expert), scene, progress=progress), expert, path)


def _show(teacher: Mixture, folder: Path, scene: Scene, rows: dict[str, Any], out: Path, progress: bool) -> None:
    """The table with the mixture below, and the same as JSON."""
    from moegs.io import write_json
    from moegs.report import command_line, model_row, print_table, versions
    from moegs.train import evaluate, mixture_renderer

    rows["mixture"] = model_row(evaluate(mixture_renderer(teacher), scene, progress=progress), teacher, folder)
    print_table(f"{scene.name}, held-out cameras", rows)
    write_json(out / "distill.json", {"command": command_line(), "versions": versions(), "models": rows})
