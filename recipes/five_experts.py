"""Train all five motion priors on one clip and see which is best where: in static, slow and fast regions, by frame.

python recipes/five_experts.py [--data DIR] [--priors polynomial hexplane ...] [--out DIR] [--budget small|medium|full]

Without --data it makes its own synthetic clip. Run it again and it goes on where it was stopped. The held-out camera is
the judge; OUT receives results.json, win_map.png and, with the 'report' extra, comparison.png.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from moegs import report, train
from moegs.data import Scene, add_clip_arguments, scene_of, synthesize
from moegs.errors import BackendError
from moegs.expert import Expert, render_expert
from moegs.io import atomic_write
from moegs.render import usable_device

PRIORS = ["polynomial", "interpolation", "hexplane", "embedding", "reformulation"]
console = Console()


def main() -> None:
    args = arguments()
    made = args.out / "clip"
    data = args.data or (made if made.exists() else synthesize(made))
    scene = scene_of(args, data)
    experts = {name: expert(args, scene, name) for name in args.priors}
    results = compare(args, scene, experts)
    report.write_results(args.out / "results.json", results)
    show(args, results)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a capture; a synthetic one by default")
    parser.add_argument("--priors", nargs="+", default=PRIORS, help="which to train, all five by default")
    parser.add_argument("--out", type=Path, default=Path("runs/five_experts"))
    parser.add_argument("--budget", default="small", help="small, medium or full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of each expert, for a quick look")
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu, where it trains by default, or cuda")
    add_clip_arguments(parser)
    return parser.parse_args()


def expert(args: argparse.Namespace, scene: Scene, name: str) -> Expert:
    prior, config = train.budget(args.budget, scene, name)
    config = replace(config, seed=args.seed, steps=args.steps or config.steps)
    return train.fit_or_load(scene, prior, config, args.out / "experts" / name, device=args.device)


def compare(args: argparse.Namespace, scene: Scene, experts: dict[str, Expert]) -> dict:
    """The table's rows, and who wins where on the first held-out camera."""
    camera, rows, curves = scene.test[0], {}, {}
    for name, one in experts.items():
        scores = train.evaluate(train.expert_renderer(one), scene, progress=True)
        file = args.out / "experts" / name / "expert.safetensors"
        rows[name] = report.model_row(scores, one, file, one.meta["train_seconds"])
        curves[name] = [frame.psnr for frame in scores.frames[: scene.n_frames]]
    errors = report.error_maps(list(experts.values()), scene, camera)
    labels = report.motion_regions(scene.image(camera, i) for i in range(scene.n_frames))
    picture = report.regions_sheet(scene.image(camera, scene.n_frames // 2), errors, labels, list(experts))
    report.write_png(args.out / "win_map.png", picture)
    backend = render_expert(next(iter(experts.values())), scene.cameras[camera], 0.0).backend
    return {
        **report.run_header(scene, backend),
        "experts": rows,
        "regions": report.region_scores(errors, labels, list(experts)),
        "frames": report.frame_scores(curves),
    }


def show(args: argparse.Namespace, results: dict) -> None:
    written = ["results.json", "win_map.png"]
    report.print_table(results["scene"], results["experts"], console)
    for name, region in results["regions"].items():
        console.print(f"{name:7} {region['share']:4.0%} of the pixels: {report.ranking(region['psnr'])}")
    wins = ", ".join(f"{name} {n}" for name, n in results["frames"]["wins"].items() if n)
    console.print(f"frames won: {wins}")
    try:
        with atomic_write(args.out / "comparison.png") as file:
            file.write(report.draw_comparison(results["regions"], results["frames"]))
        written.append("comparison.png")
    except BackendError as error:
        console.print(f"no comparison.png: {error}", markup=False)
    console.print(f"rasteriser: {results['backend']}; in {args.out}: {', '.join(written)}")


if __name__ == "__main__":
    train.run_recipe(main)
