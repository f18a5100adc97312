"""Measure what the paper's tables show, on any clips: experts, mixtures, routers, pruning, budgets, distillation.
    python recipes/paper_tables.py --data DIR [DIR ...] --out DIR [--seeds 0 1 2] [--only experts routers]

Every expert and router is trained once and shared by all tables. A cell is a line or a few of a table for one clip and one
seed, kept in a file that its settings, its models and the version of moegs name: the same command again goes on where it
was stopped or killed and skips what is finished, anything else is measured anew. Cells that fail are named at the end
(exit code 1); the others go on. Stacking is measured only where --only names it. Tables show means over seeds and clips.

Each seed and clip trains every expert, again for smaller shares of its steps, and twice for half of them as a student, a
router for each mixture, and refits each pruned mixture: hours on a desktop's CPU with --budget small and five experts.
--steps 50 --every 10 --timed 2 shows in minutes whether everything works.
OUT receives tables.md and tables.json after each cell, plots/ at the end (PSNR over each table's axis and over costs; with
the 'report' extra), cells/ and models/, where photographs' and teachers' frames take most of the space.
"""

from __future__ import annotations

import argparse
import shlex
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from moegs import train
from moegs.data import add_clip_arguments, scene_of
from moegs.errors import BackendError, ConfigError, MoegsError
from moegs.render import usable_device
from moegs.report import paper
from moegs.report.paper import TABLES, Bench

console = Console(highlight=False, soft_wrap=True)
USUAL = [name for name, table in TABLES.items() if not table.extra]


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    try:
        paper.each_once(data=[path.resolve() for path in args.data], seeds=args.seeds, only=args.only)
        seeds = [bench for seed in args.seeds for bench in benches(parser, args, seed)]
    except ConfigError as error:
        field, _, problem = str(error).partition(":")
        parser.error(f"{f'--{field}'.replace('_', '-') if field in args else field}:{problem}")
    work = [(bench, table, what) for bench in seeds for table in args.only for what in paper.cells_of(bench, table)]
    lacking = dict.fromkeys(f"{table}: {why}" for b in seeds for table in args.only if (why := paper.lacks(b, table)))
    if not work:
        parser.error(" ".join(lacking))
    left = [(number, cell) for number, cell in enumerate(work, 1) if not paper.is_measured(*cell)]
    told = [*lacking, f"{len(work)} cells, {len(work) - len(left)} of them measured before"]
    console.print(*told, sep="\n", markup=False)
    failed = []
    for number, cell in left:
        console.print(f"[{number}/{len(work)}] {paper.label(*cell)}", markup=False)
        failed += [] if measured(*cell) else [paper.label(*cell)]
        paper.write_tables(seeds, args.out)
    paper.write_tables(seeds, args.out)
    console.print((args.out / "tables.md").read_text(), markup=False)
    try:
        paper.write_plots(seeds, args.out)
    except BackendError as error:
        console.print(f"no plots: {error}", markup=False)
    if failed:
        raise SystemExit("\n    ".join([f"{len(failed)} of {len(work)} cells failed; try again:", *failed]))


def measured(bench: Bench, table: str, what: Mapping) -> bool:
    """Measure one cell and say what came out; whatever goes wrong with it is said, and stays its own."""
    started = time.perf_counter()
    try:
        rows = paper.rows_of(bench, table, what)
    except Exception as error:  # even a mistake of ours or no memory: hours of other cells still wait
        console.print(f"    failed: {error if isinstance(error, MoegsError) else traceback.format_exc()}", markup=False)
        return False
    best = ", ".join(f"{row['series']} {row['psnr']:.2f}" for row in rows)
    console.print(f"    {best} dB, {time.perf_counter() - started:.0f} s", markup=False)
    return True


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="DIR", help="captures")
    parser.add_argument("--out", type=Path, default=Path("runs/paper_tables"), help="runs/paper_tables by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="0 by default; each trains everything")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=USUAL, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu, where it trains by default, or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    paper.add_plan_arguments(parser)
    add_clip_arguments(parser)
    return parser


def benches(parser: argparse.ArgumentParser, args: argparse.Namespace, seed: int) -> list[Bench]:
    plan = paper.plan_of(args)
    scenes = [scene_of(args, path) for path in args.data]
    commands = [command(parser, args, path, seed) for path in args.data]
    return [Bench(s, plan, seed, args.out, c, not args.quiet, args.device) for s, c in zip(scenes, commands, strict=True)]


def command(parser: argparse.ArgumentParser, args: argparse.Namespace, path: Path, seed: int) -> str:
    """What measures one clip with one seed; the table is added by its cells."""
    words = ["python", "recipes/paper_tables.py", "--data", str(path), "--seeds", str(seed)]
    for name, value in vars(args).items():
        if name not in ("data", "seeds", "only", "quiet", "frame_cache") and value != parser.get_default(name):
            words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


if __name__ == "__main__":
    train.run_recipe(main)
