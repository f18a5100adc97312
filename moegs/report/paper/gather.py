"""Cells to tables: means over seeds with their spread, as Markdown, JSON and plots."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moegs.io import atomic_write, write_json
from moegs.report.paper.bench import Bench
from moegs.report.paper.cells import TABLES, Table, cell_file, cells_of, kept_cell
from moegs.report.paper.draw import draw_costs, draw_table
from moegs.report.paper.origin import mixed_origins
from moegs.report.results import PROTOCOL, command_line, versions

COLUMNS = {
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "gain": ("gain, dB", "{:+.2f}"),
    "closed": ("of the way to the oracle", "{:.0%}"),
    "gaussians": ("Gaussians", "{:,.0f}"),
    "megabytes": ("MB", "{:.1f}"),
    "ms": ("ms a frame", "{:.1f}"),
    "fps": ("FPS", "{:.1f}"),
    "separate_fps": ("FPS, one call an expert", "{:.1f}"),
    "speedup": ("times faster", "{:.2f}"),
    "times_dearest": ("times the dearest expert", "{:.2f}"),
    "tiles": ("tiles drawn", "{:.0%}"),
    "largest_error": ("largest error", "{:.4f}"),
}


@dataclass(frozen=True)
class Line:
    """A row of a table over the seeds (or clips) that have it.

    Attributes:
        series: what was measured.
        x: its place on the table's axis.
        figures: mean and spread (sample standard deviation, None for a single value) by column.
        n: how many values the mean of the PSNR is over.
    """

    series: str
    x: Any
    figures: dict[str, tuple[float, float | None]]
    n: int


Lines = dict[str, dict[str, list[Line]]]  # table → clip → lines


def gathered(benches: Sequence[Bench]) -> Lines:
    """Lines of every table that has a finished cell, by clip; with several clips also their mean."""
    found: Lines = {}
    names = _clip_names(benches)
    for table in TABLES:
        clips = {}
        for clip in dict.fromkeys(names):
            rows = _rows([b for b, name in zip(benches, names, strict=True) if name == clip], table)
            if rows:
                clips[clip] = _lines(rows)
        if len(clips) > 1:
            clips["mean over clips"] = _over_clips(list(clips.values()))
        if clips:
            found[table] = clips
    return found


def _clip_names(benches: Sequence[Bench]) -> list[str]:
    """Names of the clips; those of the same name but other content get a number."""
    keys: dict[str, list[str]] = {}
    for b in benches:
        same = keys.setdefault(b.scene.name, [])
        same += [b.clip] if b.clip not in same else []
    place = [keys[b.scene.name].index(b.clip) for b in benches]
    return [f"{b.scene.name}-{i + 1}" if i else b.scene.name for b, i in zip(benches, place, strict=True)]


def _finished(bench: Bench, table: str) -> list[dict[str, Any]]:
    """Contents of the cells that there are."""
    kept = [(kept_cell(bench, table, what), what) for what in cells_of(bench, table)]
    return [cell | {"file": cell_file(bench, table, what).name} for cell, what in kept if cell is not None]


def _rows(benches: Sequence[Bench], table: str) -> list[dict[str, Any]]:
    """A cell that comes twice, because two folders hold the same clip, counts once."""
    cells = {cell["key"]: cell for bench in benches for cell in _finished(bench, table)}
    return [row for cell in cells.values() for row in cell["rows"]]


def _lines(rows: list[dict[str, Any]]) -> list[Line]:
    grouped: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["series"], row["x"]), []).append(row)
    return [_line(series, x, same) for (series, x), same in grouped.items()]


def _line(series: str, x: Any, rows: list[dict[str, Any]]) -> Line:
    figures = {}
    for column in COLUMNS:
        values = [row[column] for row in rows if row.get(column) is not None]
        if values:
            figures[column] = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    return Line(series, x, figures, len(rows))


def _over_clips(clips: list[list[Line]]) -> list[Line]:
    """Means of the clips' means, for lines that all clips have."""
    rows = [{"series": li.series, "x": li.x} | {k: m for k, (m, _) in li.figures.items()} for c in clips for li in c]
    return [line for line in _lines(rows) if line.n == len(clips)]


_AGAIN = (
    "Delete the files in cells/ that should be measured again. Models that older code trained (\"trained\") are measured "
    "as they are until their folders in models/ are deleted too."
)


def markdown(found: Lines, benches: Sequence[Bench]) -> str:
    """All tables as Markdown, and the commands that measure them again."""
    seeds = sorted({b.seed for b in benches})
    plan, spreads = benches[0].plan, _spreads(len(seeds), len(set(_clip_names(benches))))
    parts = [
        "# Mixtures of experts, measured",
        f"Budget {plan.budget}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{spreads}. "
        f"{', '.join(plan.names)} unless the table says otherwise. Held-out cameras. {PROTOCOL}",
    ]
    for table, clips in found.items():
        parts += [f"## {TABLES[table].heading}", TABLES[table].note]
        for clip, lines in clips.items():
            parts += [f"**{clip}**", _table(TABLES[table], lines)]
    cells = [cell for table in found for b in benches for cell in _finished(b, table)]
    if mixed := mixed_origins(cells):
        parts += ["## Not measured alike", _AGAIN, *mixed]
    commands = dict.fromkeys(cell["command"] for cell in cells)
    return "\n\n".join([*parts, "## Commands", "\n".join(f"    {c}" for c in commands)]) + "\n"


def _spreads(seeds: int, clips: int) -> str:
    """What stands behind ± in tables of so many seeds and clips."""
    over = [*["over seeds"] * (seeds > 1), *["over clips in means over clips"] * (clips > 1)]
    return f"; ± is the standard deviation {', '.join(over)}" if over else ""


def _table(table: Table, lines: list[Line]) -> str:
    shown = [c for c in table.columns if any(c in line.figures for line in lines)]
    axis = table.axis[0] if any(line.x is not None for line in lines) else ""
    first = ["", axis] if axis else [""]
    head = [*first, *(COLUMNS[c][0] for c in shown)]
    rows = [head, ["---"] * len(first) + ["---:"] * len(shown)]
    for line in lines:
        place = ["" if line.x is None else table.axis[1].format(line.x)] if axis else []
        rows.append([line.series, *place, *(_cell(c, line) for c in shown)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(column: str, line: Line) -> str:
    if column not in line.figures:
        return ""
    mean, spread = line.figures[column]
    shape = COLUMNS[column][1]
    return shape.format(mean) + ("" if spread is None else " ± " + shape.replace("+", "").format(spread))


def write_tables(benches: Sequence[Bench], out: str | Path) -> None:
    """Write ``tables.json`` and ``tables.md``; cells that are not finished are left out."""
    out, found, plan = Path(out), gathered(benches), benches[0].plan
    write_json(out / "tables.json", {
        "command": command_line(), "versions": versions(), "plan": asdict(plan) | {"mixed": len(plan.names)},
        "protocol": PROTOCOL,
        "tables": {t: {c: [asdict(line) for line in lines] for c, lines in clips.items()} for t, clips in found.items()},
        "cells": [{k: c[k] for k in ("file", "table", "clip", "seed", "what", "command", "seconds")}
                  for t in found for b in benches for c in _finished(b, t)],
    })  # fmt: skip
    with atomic_write(out / "tables.md") as file:
        file.write(markdown(found, benches).encode())


def write_plots(benches: Sequence[Bench], out: str | Path) -> None:
    """Write ``plots/TABLE.png`` for every table that has a finished cell, ``TABLE-cost.png`` where rows say what they cost.

    Raises:
        BackendError: the ``report`` extra is not installed.
    """
    for table, clips in gathered(benches).items():
        for name, png in ((table, draw_table(TABLES[table], clips)), (f"{table}-cost", draw_costs(clips))):
            if png is not None:
                with atomic_write(Path(out) / "plots" / f"{name}.png") as file:
                    file.write(png)
