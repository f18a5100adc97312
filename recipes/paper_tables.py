"""Measure what the paper's tables show, on any clips: experts, mixtures, routers, pruning, budgets, distillation.

python recipes/paper_tables.py --data DIR [DIR ...] --out DIR [--budget small] [--seeds 0 1 2] [--only experts routers]

Every expert and router is trained once and shared by all tables. Run it again and it goes on where it was stopped, and
skips what is finished. OUT receives tables.md, tables.json, cells/ (one file a figure, with its command and seed) and,
with the 'report' extra, plots/.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from moegs import train
from moegs.data import load_scene
from moegs.errors import BackendError
from moegs.report import paper
from moegs.report.paper import Bench

console = Console(highlight=False, soft_wrap=True)
USUAL = [name for name, table in paper.TABLES.items() if not table.extra]


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    seeds = [bench for seed in args.seeds for bench in benches(parser, args, seed)]
    work = [(bench, table, what) for bench in seeds for table in args.only for what in paper.cells_of(bench, table)]
    for table in set(args.only) - {table for _, table, _ in work}:
        console.print(f"{table}: no clip has the cameras for it", markup=False)
    for number, (bench, table, what) in enumerate(work, 1):
        if not paper.is_measured(bench, table, what):
            console.print(f"[{number}/{len(work)}] {label(bench, table, what)}", markup=False)
            started = time.perf_counter()
            rows = paper.rows_of(bench, table, what)
            best = ", ".join(f"{row['series']} {row['psnr']:.2f}" for row in rows)
            console.print(f"    {best} dB, {time.perf_counter() - started:.0f} s", markup=False)
            paper.write_tables(seeds, args.out)
    paper.write_tables(seeds, args.out)
    console.print((args.out / "tables.md").read_text(), markup=False)
    try:
        paper.write_plots(seeds, args.out)
    except BackendError as error:
        console.print(f"no plots: {error}", markup=False)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="captures")
    parser.add_argument("--out", type=Path, default=Path("runs/paper_tables"))
    parser.add_argument("--budget", default="small", help="small, medium or full")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    known = [*paper.TABLES]
    parser.add_argument("--only", nargs="+", choices=known, default=USUAL, metavar="TABLE", help=", ".join(known))
    parser.add_argument("--experts", nargs="+", default=[*paper.PRIORS], help="priors in order, repeats allowed")
    parser.add_argument("--mixed", type=int, default=3, help="how many of them where the table does not vary it")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on width and height")
    parser.add_argument("--frames", type=int, help="of each clip, all by default")
    parser.add_argument("--every", type=int, default=1, help="score every n-th frame")
    parser.add_argument("--timed", type=int, default=20, help="frames to time")
    parser.add_argument("--left-out", type=int, default=4, help="cameras that stacking keeps from the experts")
    parser.add_argument("--steps", type=int, help="at most so many of anything, for a quick look")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def benches(parser: argparse.ArgumentParser, args: argparse.Namespace, seed: int) -> list[Bench]:
    plan = paper.Plan(
        budget=args.budget, experts=paper.numbered(args.experts), steps=args.steps, mixed=args.mixed, every=args.every,
        timed=args.timed, left_out=args.left_out,
    )  # fmt: skip
    made = []
    for path in args.data:
        scene = load_scene(path, scale=args.scale, frames=args.frames, cache_dir=args.out / "frames")
        made.append(Bench(scene, plan, seed, args.out, command(parser, args, path, seed), not args.quiet))
    return made


def command(parser: argparse.ArgumentParser, args: argparse.Namespace, path: Path, seed: int) -> str:
    """What measures one clip with one seed; the table is added by its cells."""
    words = ["python", "recipes/paper_tables.py", "--data", str(path), "--seeds", str(seed)]
    for name, value in vars(args).items():
        if name not in ("data", "seeds", "only", "quiet") and value != parser.get_default(name):
            words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def label(bench: Bench, table: str, what: Mapping) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in what.items())
    return f"{table}: {bench.scene.name}, seed {bench.seed}" + (f", {settings}" if settings else "")


if __name__ == "__main__":
    train.run_recipe(main)
