"""``moegs fuse``: a mixture as one ordinary dynamic model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import warn_if_other_clip
from ._outputs import force_option, refuse_beside_mixture, refuse_to_replace, refuse_without_meaning, remove_training
from ._scenes import Watched, device_option, open_scored, scene_options

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.expert import Expert
    from moegs.metrics.depth import DepthScores
    from moegs.route import Mixture

NOTICED = 0.3  # dB
PRUNED = "pruned"  # folder within that of the refit


@click.command(
    short_help="Merge a mixture into one ordinary dynamic model.",
    epilog="\b\nExamples:\n"
    "  moegs fuse runs/mix --data clip --out fused.safetensors\n"
    "  moegs fuse runs/mix --data clip --out fused.safetensors --refit 1000\n"
    "  moegs fuse runs/mix --data clip --out fused.safetensors --refit 1500 --ratio 0.55\n"
    "  moegs fuse runs/mix --data clip --out fused.safetensors --pictures fused"
)
@click.argument("mixture", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="The capture that it was trained on.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File for the model.")
@click.option("--views", type=click.IntRange(1), default=64, show_default=True, help="Training views to average over.")
@click.option(
    "--scaling", type=click.Choice(["opacity", "density"]), default="opacity", show_default=True,
    help="Multiply opacities as the paper does, or share out optical depth, which keeps surfaces closed.",
)
@click.option(
    "--refit", type=click.IntRange(0), default=0, show_default=True,
    help="Steps in which the fused model learns on from the photographs; 1000 nearly make up for what fusion costs.",
)  # fmt: skip
@click.option(
    "--ratio", type=click.FloatRange(0, 1, max_open=True), default=None,
    help="Then drop this fraction of its Gaussians, and learn on for as many steps again; takes a --refit.",
)  # fmt: skip
@click.option(
    "--pictures", type=click.Path(file_okay=False, path_type=Path), default=None,
    help="Folder for depth maps and a spiral video of the experts and the fused model side by side.",
)
@click.option("--count", type=click.IntRange(1), default=60, show_default=True, help="Frames of the spiral.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Evaluate every n-th frame.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of views and the refit.")
@click.option("--resume", is_flag=True, help="Continue a refit that was interrupted, from its checkpoint beside OUT.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all scores here.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@device_option
@force_option
@scene_options
def fuse(
    mixture: Path, data: Path, out: Path, pictures: Path | None, json_path: Path | None, force: bool, resume: bool,
    **rest: Any,
) -> None:  # fmt: skip
    """Merge all experts of MIXTURE into one model without gates, each Gaussian dimmed by how far it is trusted.

    Prints scores of the experts, the mixture and the fused model on the held-out cameras, and of depth where the capture
    ships true depth. While it refits, OUT is the model before, with the checkpoint in a folder OUT-refit beside it.
    """
    from moegs.prune import megabytes
    from moegs.report import print_table
    from moegs.route import load_mixture

    refuse_without_meaning(
        (resume and not rest["refit"], "--resume: goes on with a --refit; leave it out."),
        (rest["ratio"] is not None and not rest["refit"], "--ratio: what is left has to learn on; add --refit STEPS."),
    )
    refuse_to_replace(out, force or (resume and _learning(out).exists()))
    refuse_to_replace(pictures, force, "--pictures")
    refuse_to_replace(json_path, force, "--json")
    refuse_beside_mixture(out)
    mixed, scene = load_mixture(mixture, rest["device"]), open_scored(data, rest)
    warn_if_other_clip(mixed, scene)
    bars = not rest["quiet"]
    made = _made(scene, mixed, out, rest | {"resume": resume})
    files = {name: mixture / "experts" / f"{name}.safetensors" for name in mixed.experts} | dict.fromkeys(made, out)
    rows = _scored(scene, mixed, mixture, mixed.experts | made, files, rest)
    for name in list(made)[:-1]:  # those are not in the file any more
        rows[name]["megabytes"] = megabytes(made[name])
    models = mixed.experts | {"fused": list(made.values())[-1]}
    print_table(f"{scene.name}, held-out cameras", rows)
    lost = (rows["mixture"]["psnr"] or 0.0) - (rows[list(made)[-1]]["psnr"] or 0.0)
    if lost > NOTICED and not rest["refit"]:
        click.echo(f"Note: fusion costs {lost:.1f} dB; with --refit 1000 the model makes up for most of it.", err=True)
    depths = _depths(scene, models, data, rest)
    for name, found in depths.items():
        click.echo(_told(name, found))
    click.echo(f"{out}: {list(made)[-1]} model of {len(models['fused']):,} Gaussians")
    if json_path is not None:
        _record(json_path, scene, rows, depths)
    if pictures is not None:
        _draw(scene, models, pictures, rest["count"], bars)
        if force:
            _remove_others(scene, pictures)


def _learning(out: Path) -> Path:
    """Where the refit keeps its checkpoint."""
    return out.with_name(f"{out.stem}-refit")


def _made(scene: Scene, mixed: Mixture, out: Path, options: dict[str, Any]) -> dict[str, Expert]:
    """The fused model, what has learnt on, and what was pruned then, as asked; the last of them is the one in the file."""
    from moegs.expert import load_expert, save_expert
    from moegs.prune import prune_expert
    from moegs.prune.refit import HALFWAY
    from moegs.route import mixture_key
    from moegs.route.fuse import fuse as merge
    from moegs.train import train_on
    from moegs.train.views import sample_views

    bars, steps, seed = not options["quiet"], options["refit"], options["seed"]
    sample = sample_views(scene, options["views"], seed=seed)
    views = Watched(sample, "how far each Gaussian is trusted", bars)
    save_expert(merge(mixed, views, scaling=options["scaling"]), out)
    fused = load_expert(out, options["device"])
    if not steps:
        return {"fused": fused}
    folder, known = _learning(out), [mixture_key(mixed), options["scaling"], options["views"]]
    parts = (folder, folder / PRUNED, folder / PRUNED / HALFWAY)
    if not options["resume"]:
        remove_training(*parts)
    how: dict[str, Any] = {"seed": seed, "resume": options["resume"], "progress": bars}
    learnt = train_on(scene, fused, steps, start_as=known, out=folder, **how)
    save_expert(learnt, out)
    made = {"fused": fused, "fused, refitted": learnt}
    if options["ratio"]:
        made["fused, pruned"] = prune_expert(
            scene, learnt, Watched(sample, "scoring Gaussians", bars), ratio=options["ratio"], steps=steps,
            out=folder / PRUNED, **how,
        )  # fmt: skip
        save_expert(made["fused, pruned"], out)
    remove_training(*parts)
    return made


def _scored(
    scene: Scene, mixed: Mixture, folder: Path, models: dict[str, Expert], files: dict[str, Path], options: dict[str, Any]
) -> dict[str, Any]:
    from moegs.report import model_row
    from moegs.train import evaluate, expert_renderer, mixture_renderer

    how = {"every": options["every"], "progress": not options["quiet"]}
    rows = {n: model_row(evaluate(expert_renderer(m), scene, **how), m, files[n]) for n, m in models.items()}
    own = {name: rows.pop(name) for name in list(rows) if name in mixed.experts}
    return own | {"mixture": model_row(evaluate(mixture_renderer(mixed), scene, **how), mixed, folder)} | rows


def _depths(scene: Scene, models: dict[str, Expert], data: Path, options: dict[str, Any]) -> dict[str, DepthScores]:
    """Of a capture that ships true depth of its held-out cameras; a mixture has no depth of its own."""
    from moegs.data.depth import has_depth
    from moegs.errors import MoegsError
    from moegs.report.geometry import score_depth

    if not has_depth(data):
        return {}
    how = {"every": options["every"], "start": options["start"]}
    try:
        return {name: score_depth(m, scene, data, **how) for name, m in models.items()}
    except MoegsError as error:
        click.echo(f"moegs: warning: depth is not scored: {error}", err=True)
        return {}


def _told(name: str, found: DepthScores) -> str:
    errors = f"abs-rel {found.abs_rel:.4f}, RMSE {found.rmse:.4f}, within 25 % {found.delta1:.1%}"
    return f"depth of {name}: {errors if found.covered else 'nothing is opaque'}, covered {found.covered:.1%}"


def _record(path: Path, scene: Scene, rows: dict[str, Any], depths: dict[str, DepthScores]) -> None:
    from moegs.io import finite, write_json
    from moegs.report import command_line, versions

    found = {name: finite(asdict(scores)) for name, scores in depths.items()}
    models = {name: row | ({"depth": found[name]} if name in found else {}) for name, row in rows.items()}
    write_json(path, {"command": command_line(), "versions": versions(), "scene": scene.name, "models": models})


def _draw(scene: Scene, models: dict[str, Expert], folder: Path, count: int, progress: bool) -> None:
    from moegs.report import write_png
    from moegs.report.geometry import geometry_movie, side_by_side

    from .render import shots_of

    middle = scene.n_frames // 2
    for camera in scene.test:
        sheet = side_by_side(models, scene.cameras[camera], scene.time(middle), scene.bounds)
        write_png(folder / f"depth-{scene.camera_names[camera]}.png", sheet)
    shots = shots_of(scene, "spiral", count)["spiral"]
    geometry_movie(folder / "spiral.mp4", models, shots, scene.bounds, fps=scene.fps, progress=progress)
    click.echo(f"{folder}: depth maps and spiral.mp4 of {', '.join(models)}")


def _remove_others(scene: Scene, folder: Path) -> None:
    """Depth maps of cameras that were held out before and are not now."""
    for camera in set(range(len(scene.cameras))) - set(scene.test):
        (folder / f"depth-{scene.camera_names[camera]}.png").unlink(missing_ok=True)
