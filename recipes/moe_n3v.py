"""Train experts with different motion priors and a router, then all together; measure on the held-out camera and show it.

python recipes/moe_n3v.py [--data DIR] [--experts polynomial interpolation] [--out DIR] [--budget small|medium|full]

Without --data it makes its own synthetic clip. Run it again and it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from moegs import report, train
from moegs.data import Scene, add_clip_arguments, scene_of, synthesize
from moegs.expert import Expert
from moegs.render import usable_device
from moegs.route import Mixture, load_mixture, mixture_key, read_manifest, render_mixture, save_mixture

console = Console()


def main() -> None:
    args = arguments()
    scene = scene_of(args, args.data or clip(args.out / "clip"))
    experts = {name: expert(args, scene, name) for name in numbered(args.experts)}
    routed = mix(args, scene, experts)
    mixture = refined(args, scene, routed)
    results = measure(args, scene, routed, mixture)
    report.write_results(args.out / "results.json", results)
    sheet = report.mixture_sheet(mixture, scene, scene.test[0], scene.n_frames // 2)
    report.write_png(args.out / "contact_sheet.png", sheet)
    rows = results["experts"] | results["yardsticks"] | {n: results[n] for n in ("router alone", "mixture")}
    report.print_table(report.held_out(scene), rows, console)
    console.print(f"rasteriser: {results['backend']}; {args.out}/results.json, {args.out}/contact_sheet.png")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a capture; a synthetic one by default")
    parser.add_argument("--experts", nargs="+", default=["polynomial", "interpolation"], help="priors, repeats allowed")
    parser.add_argument("--out", type=Path, default=Path("runs/moe_n3v"))
    parser.add_argument("--budget", default="small", help="small, medium or full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of each expert, and at most so many of the rest, for a quick look")
    parser.add_argument("--refine", type=int, help="steps of experts and router together; 0 for the paper's two stages")
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu, where it trains by default, or cuda")
    add_clip_arguments(parser)
    return parser.parse_args()


def clip(folder: Path) -> Path:
    return folder if folder.exists() else synthesize(folder)


def numbered(names: list[str]) -> dict[str, int]:
    """The same prior again is another expert: interpolation, interpolation-2… with the next seed."""
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return {f"{name}-{n + 1}" if n else name: n for name, n in zip(names, before, strict=True)}


def expert(args: argparse.Namespace, scene: Scene, name: str) -> Expert:
    prior, config = train.budget(args.budget, scene, name.rpartition("-")[0] or name)
    config = replace(config, seed=args.seed + numbered(args.experts)[name], steps=args.steps or config.steps)
    return train.fit_or_load(scene, prior, config, args.out / "experts" / name, device=args.device)


def mix(args: argparse.Namespace, scene: Scene, experts: dict[str, Expert]) -> Mixture:
    config = replace(train.route_budget(args.budget, scene), seed=args.seed)
    steps = min(config.steps, args.steps or config.steps)
    return fitted(args.out / "mixture", scene, partial(train.fit_router, scene, experts, replace(config, steps=steps)))


def refined(args: argparse.Namespace, scene: Scene, routed: Mixture) -> Mixture:
    config = replace(train.refine_budget(args.budget, scene), seed=args.seed)
    if (steps := min(config.steps, args.steps or config.steps) if args.refine is None else args.refine) == 0:
        return routed
    return fitted(args.out / "refined", scene, partial(train.refine_mixture, scene, routed, replace(config, steps=steps)))


def fitted(folder: Path, scene: Scene, fit: Callable[..., Mixture]) -> Mixture:
    """A mixture trained in a folder, with the seconds that it took where it was not interrupted."""
    started, untouched = time.perf_counter(), not (folder / "checkpoint.safetensors").exists()
    mixture, file = fit(out=folder, resume=True), folder / "manifest.json"
    if untouched or not file.exists() or mixture_key(load_mixture(folder)) != mixture_key(mixture):
        seconds = time.perf_counter() - started if untouched else None
        save_mixture(mixture, folder, {"scene": scene.name, "train_seconds": seconds})
    return mixture


def measure(args: argparse.Namespace, scene: Scene, routed: Mixture, mixture: Mixture) -> dict:
    """Experts and yardsticks are those of the router alone, before all learned on together."""
    rows = {}
    for name, one in routed.experts.items():
        file = args.out / f"mixture/experts/{name}.safetensors"
        scores = train.evaluate(train.expert_renderer(one), scene, progress=True)
        rows[name] = report.model_row(scores, one, file, one.meta["train_seconds"])
    alone = mixture_row(scene, routed, args.out / "mixture")
    return {
        **report.run_header(scene, render_mixture(mixture, scene.cameras[scene.test[0]], 0.0).backend),
        "experts": rows,
        "router alone": alone,
        "mixture": alone if mixture is routed else mixture_row(scene, mixture, args.out / "refined"),
        "yardsticks": {name: report.score_row(scores) for name, scores in train.yardsticks(routed, scene).items()},
    }


def mixture_row(scene: Scene, mixture: Mixture, folder: Path) -> dict:
    scores = train.evaluate(train.mixture_renderer(mixture), scene, progress=True)
    return report.model_row(scores, mixture, folder, read_manifest(folder)["meta"]["train_seconds"])


if __name__ == "__main__":
    train.run_recipe(main)
