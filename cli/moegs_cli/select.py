"""``moegs select``: which experts are worth mixing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import warn_if_other_clip
from ._outputs import force_option, given, refuse_to_replace, refuse_without_meaning
from ._scenes import device_option, open_scene, scene_options, training_cameras_named
from .route import ExpertsSideBySide, named_experts

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.expert import Expert


@click.command(
    short_help="Rank subsets of experts by gain per millisecond.",
    cls=ExpertsSideBySide,
    epilog="\b\nExamples:\n"
    "  moegs select clip --experts runs/poly runs/keys runs/planes\n"
    "  moegs select clip --experts runs/* --sizes 2,3,4 --steps 300 --json ranking.json",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--experts", "paths", multiple=True, required=True, type=click.Path(path_type=Path), metavar="EXPERT...",
    help="Expert files, or the folders of their training runs.",
)
@click.option("--sizes", default="2,3", show_default=True, help="How many experts to mix, separated by commas.")
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True, help="Router steps for each subset.")
@click.option("--validation", type=click.IntRange(1), default=2, show_default=True, help="Training cameras to rank by.")
@click.option("--cameras", default=None, metavar="CAMERAS", help="Which ones, separated by commas; spread by default.")
@click.option("--every", type=click.IntRange(1), default=2, show_default=True, help="Rank by every n-th frame.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the routers.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the ranking here.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@device_option
@force_option
@scene_options
def select(
    data: Path, paths: tuple[Path, ...], json_path: Path | None, quiet: bool, force: bool, **rest: Any
) -> None:  # fmt: skip
    """Rank subsets of trained experts by decibels gained per millisecond.

    Each subset gets a short router fit on some training cameras of the capture in DATA and is scored on the others; the
    held-out cameras are never looked at. Experts that were fitted to the cameras they are scored on look better than they
    are; train them with --leave-out to rule that out. Subsets are timed in turns. Routers are fitted as in the paper,
    without letting experts and router learn on together (moegs refine), which lifts all subsets.
    """
    from moegs.io import write_json
    from moegs.report import command_line, versions
    from moegs.train.select import SelectConfig, rank_subsets, validation_cameras

    clash = rest["cameras"] is not None and given("validation")
    refuse_without_meaning((clash, "--validation: says how many; --cameras says which. Leave one out."))
    refuse_to_replace(json_path, force, "--json")
    sizes = _numbers(rest["sizes"], len(paths))
    experts, scene = named_experts(paths, rest["device"]), open_scene(data, rest)
    for expert in experts.values():
        warn_if_other_clip(expert, scene)
    config = SelectConfig(sizes, rest["validation"], rest["every"], steps=rest["steps"], seed=rest["seed"])
    chosen = training_cameras_named(scene, rest["cameras"], "--cameras")
    _warn_of_fitted(scene, experts, validation_cameras(scene, config.validation) if chosen is None else chosen)
    ranked = rank_subsets(scene, experts, config, cameras=chosen, progress=not quiet)
    places = dict(zip(experts, map(str, paths), strict=True))
    _show(scene.name, ranked, places)
    if json_path is not None:
        head = {"command": command_line(), "versions": versions(), "scene": scene.name, "experts": places}
        write_json(json_path, head | {"ranking": [c.to_json() for c in ranked]})


def _warn_of_fitted(scene: Scene, experts: dict[str, Expert], validation: tuple[int, ...]) -> None:
    names = [scene.camera_names[i] for i in validation]
    if fitted := [n for n, e in experts.items() if set(names) - set(e.meta.get("left_out", []))]:
        click.echo(
            f"Note: {', '.join(fitted)} may have been fitted to the validation cameras {', '.join(names)}; ranks are of how "
            "well they fit. Train with --leave-out to keep cameras from them.", err=True,
        )  # fmt: skip


def _numbers(text: str, experts: int) -> tuple[int, ...]:
    from moegs.errors import ConfigError

    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--sizes: expected numbers separated by commas, got {text!r}.") from None
    if min(sizes) < 2:
        raise ConfigError(f"--sizes: expected numbers of at least 2, got {text!r}.")
    if given("sizes") and max(sizes) > experts:
        raise ConfigError(f"--sizes: expected numbers up to the {experts} experts given, got {text!r}.")
    return sizes


def _show(scene: str, ranked: list[Any], places: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{scene}, validation cameras of the training rig", title_justify="left")
    table.add_column("experts")
    for heading in ("PSNR", "gain, dB", "ms a frame", "dB a ms", "best of its cost"):
        table.add_column(heading, justify="right")
    for c in ranked:
        cells = f"{c.psnr:.2f}", f"{c.gain:+.2f}", f"{c.ms:.1f}", f"{c.gain_per_ms:+.4f}", "yes" if c.efficient else ""
        table.add_row(" + ".join(c.experts), *cells)
    Console().print(table)
    for name, place in places.items():
        click.echo(f"{name}: {place}")
