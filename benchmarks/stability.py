"""Ten short runs of every prior: ``python -m benchmarks.stability --data DIR [--seeds 10] [--steps 400]``.

Says whether any tensor or rendered pixel is not finite, how far the farthest visible Gaussian strays and how large the
largest is (in radii of the camera rig), how much PSNR on the held-out camera varies, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace
from pathlib import Path

import torch

from moegs import deform
from moegs.data import Scene, load_scene, with_moving_points
from moegs.expert import Expert
from moegs.gaussians.densify import sizes
from moegs.train import budget, evaluate, expert_renderer, fit_expert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--priors", nargs="+", default=deform.names())
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--cache", type=Path, help="where decoded frames are kept")
    args = parser.parse_args()
    scene = load_scene(args.data, cache_dir=args.cache)
    scene = replace(scene, cloud=with_moving_points(scene))  # the same for all runs
    print(f"| prior ({args.steps} steps, {scene.name}) | finite | farthest | largest | PSNR, least to most | GiB |")
    print("|---|---|---|---|---|---|")
    for name in (n for n in args.priors if n != "fused"):
        print(row(name, [trained(scene, name, seed, args.steps) for seed in range(args.seeds)], scene), flush=True)


def trained(scene: Scene, name: str, seed: int, steps: int) -> Expert:
    prior, config = budget("small", scene, name)
    return fit_expert(scene, prior, replace(config, seed=seed, steps=steps, sweep=None, surface=None), progress=False)


def row(name: str, experts: list[Expert], scene: Scene) -> str:
    centre = torch.stack([scene.cameras[i].centre for i in scene.train]).mean(0)
    finite, farthest, largest = 0, 0.0, 0.0
    for expert in experts:
        moments = [expert.at(t) for t in (0.0, 0.5, scene.time(scene.n_frames - 1))]
        tensors = [*expert.params.values(), *(m.means for m in moments)]
        finite += all(bool(torch.isfinite(v).all()) for v in tensors if v.is_floating_point())
        for now in moments:
            seen = now.opacities > 1 / 255
            reach = torch.linalg.vector_norm(now.means[seen] - centre, dim=1).max() / scene.extent
            farthest, largest = max(farthest, float(reach)), max(largest, float(sizes(now)[seen].max()) / scene.extent)
    scores = [evaluate(expert_renderer(e), scene, every=12, timed=1).mean.psnr for e in experts]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    spread = f"{min(scores):.2f} to {max(scores):.2f}"
    return f"| {name} | {finite} of {len(experts)} | {farthest:.1f} | {largest:.2f} | {spread} | {memory:.2f} |"


if __name__ == "__main__":
    main()
