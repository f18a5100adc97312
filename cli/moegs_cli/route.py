"""``moegs route``: a router over trained experts, and the mixture of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import EXPERT_FILE, open_only_expert, warn_if_other_clip
from ._outputs import MANIFEST, TRAINING, force_option, refuse_to_overwrite, remove_former
from ._routers import router_options, with_router
from ._scenes import device_option, open_scene, scene_options, stacking_cameras, training_cameras_named

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.expert import Expert
    from moegs.train import RouteConfig


class ExpertsSideBySide(click.Command):
    """Takes ``--experts A B C`` for ``--experts A --experts B --experts C``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args, "--experts"))


def spread(args: list[str], option: str) -> list[str]:
    """Repeat an option before each of the values that follow it, up to the next option."""
    spelled, within = [], False
    for position, arg in enumerate(args):
        follows = within and not arg.startswith("-") and args[position - 1] != option
        spelled += [option, arg] if follows else [arg]
        within = arg == option or (within and not arg.startswith("-"))
    return spelled


@click.command(
    cls=ExpertsSideBySide,
    short_help="Train a router over experts and save the mixture.",
    epilog="\b\nExamples:\n"
    "  moegs route clip --experts runs/poly runs/keys --out runs/mix\n"
    "  moegs route clip --experts a.safetensors b.safetensors --views cam03,cam07 --out runs/mix --steps 500\n"
    "  moegs route clip --experts runs/stacked runs/stacked-keys --router-views 4 --out runs/mix\n"
    "  moegs route clip --experts runs/poly runs/keys --router volume --set initial_weight=1 --out runs/merged"
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--experts", "paths", multiple=True, required=True, type=click.Path(path_type=Path), metavar="EXPERT...",
    help="Expert files, or the folders of their training runs; their order is that of the gates.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the mixture.")
@click.option("--budget", default="small", show_default=True, help="small, medium or full.")
@click.option("--steps", type=click.IntRange(1), default=None, help="Optimisation steps; the budget's by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of views and the network.")
@router_options
@click.option("--views", default=None, metavar="CAMERAS", help="Learn from these cameras only, separated by commas.")
@click.option(
    "--router-views", default=None, metavar="N|CAMERAS",
    help="Stacking: learn from so many training cameras, or these, kept from the experts (train --leave-out).",
)
@click.option("--checkpoint-every", type=click.IntRange(1), default=None, help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT from its checkpoint, on the CPU bit for bit.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@force_option
@device_option
@scene_options
def route(
    data: Path, paths: tuple[Path, ...], out: Path, budget: str, resume: bool, quiet: bool, force: bool, **rest: Any
) -> None:  # fmt: skip
    """Train a router over experts of the capture in DATA, and save the mixture.

    The experts stay as they are. OUT receives the mixture: experts/, router.safetensors and manifest.json with the hash
    of every file; while it trains also checkpoint.safetensors and metrics.jsonl. A volume router has no gates: OUT then
    receives expert.safetensors, one model of all experts' Gaussians with weighted opacities.
    """
    from moegs.train import route_budget

    refuse_to_overwrite(out, resume, force)
    experts = named_experts(paths, rest["device"])
    scene = open_scene(data, rest)
    for expert in experts.values():
        warn_if_other_clip(expert, scene)
    given = {k: rest[k] for k in ("steps", "seed", "checkpoint_every") if rest[k] is not None}
    config = with_router(replace(route_budget(budget, scene), **given), rest)
    how = {"out": out, "resume": resume, "progress": not quiet}
    _fit(scene, experts, config, how | {"cameras": _cameras(scene, experts, rest)}, merged=rest["router"] == "volume")
    if force:
        remove_former(out, keep={EXPERT_FILE if rest["router"] == "volume" else MANIFEST, *TRAINING})
    click.echo(f"{out}: {'merged scene' if rest['router'] == 'volume' else 'mixture'} of {', '.join(experts)}")


def _fit(scene: Scene, experts: dict[str, Expert], config: RouteConfig, how: dict[str, Any], merged: bool) -> None:
    from moegs.expert import save_expert
    from moegs.route import save_mixture
    from moegs.train import fit_router
    from moegs.train.volume import fit_volume_router

    if merged:
        save_expert(fit_volume_router(scene, experts, config, **how), how["out"] / EXPERT_FILE)
    else:
        mixture = fit_router(scene, experts, config, **how)
        save_mixture(mixture, how["out"], {"scene": scene.name, "n_frames": scene.n_frames})


def _cameras(scene: Scene, experts: dict[str, Expert], options: dict[str, Any]) -> tuple[int, ...] | None:
    """What the router learns from; says so when stacking is asked for and an expert knows one of the cameras."""
    from moegs.errors import ConfigError

    if options["router_views"] is None:
        return training_cameras_named(scene, options["views"], "--views")
    if options["views"] is not None:
        raise ConfigError("--router-views: give either --views or --router-views.")
    _, chosen = stacking_cameras(scene, options["router_views"], "--router-views")
    for name, expert in experts.items():
        seen = [c for c in (scene.camera_names[i] for i in chosen) if c not in expert.meta.get("left_out", [])]
        if seen:
            left = f"train it with --leave-out {options['router_views']}"
            click.echo(f"moegs: warning: {name} may have been fitted to {', '.join(seen)}; {left}", err=True)
    return chosen


def named_experts(paths: tuple[Path, ...], device: str = "cpu") -> dict[str, Expert]:
    """Read experts and name them by their priors; further ones of the same prior get -2, -3…"""
    experts: dict[str, Expert] = {}
    for path in paths:
        expert = open_only_expert(path, device)
        experts[free_name(expert.prior.name, experts)] = expert
    return experts


def free_name(name: str, taken: Any) -> str:
    """The name itself, or with the first number that makes it unique."""
    numbers = (f"{name}-{i}" for i in range(2, len(taken) + 3))
    return name if name not in taken else next(n for n in numbers if n not in taken)
