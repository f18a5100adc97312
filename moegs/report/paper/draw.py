"""A table as pictures: PSNR over the table's axis and over what it costs, a panel or two a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moegs.report.plots import as_png, new_figure
from moegs.report.regions import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from moegs.report.paper.cells import Table
    from moegs.report.paper.gather import Line

COSTS = {"ms": "milliseconds a frame", "megabytes": "MB"}
_PER_ROW = 3
_MARKERS = "osD"  # where the colours begin anew


def draw_table(table: Table, clips: Mapping[str, Sequence[Line]]) -> bytes:
    """PNG of a table; where its rows have no place on an axis, series are listed instead.

    Raises:
        BackendError: the ``report`` extra is not installed.
    """
    columns = min(len(clips), _PER_ROW)
    rows = -(-len(clips) // _PER_ROW)
    figure = new_figure("a table's plot", (1.2 + 4.4 * columns, 0.6 + 3.6 * rows))
    figure.suptitle(table.heading)
    for axes, (clip, lines) in zip(figure.subplots(rows, columns, squeeze=False).flat, clips.items(), strict=False):
        (_list if all(line.x is None for line in lines) else _curves)(axes, table, lines)
        axes.set_title(clip, fontsize="medium")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(clips) :]:
        axes.remove()
    return as_png(figure)


def draw_costs(clips: Mapping[str, Sequence[Line]]) -> bytes | None:
    """PNG of PSNR over what it costs, milliseconds a frame and megabytes; None where no two rows say what they cost.

    Raises:
        BackendError: the ``report`` extra is not installed.
    """
    costs = [c for c in COSTS if any(sum(c in line.figures for line in lines) > 1 for lines in clips.values())]
    if not costs:
        return None
    figure = new_figure("a table's plot of costs", (1.2 + 4.4 * len(costs), 0.6 + 3.6 * len(clips)))
    panels = figure.subplots(len(clips), len(costs), squeeze=False)
    for row, (clip, lines) in zip(panels, clips.items(), strict=True):
        for axes, cost in zip(row, costs, strict=True):
            _scatter(axes, cost, lines)
            axes.set_title(clip, fontsize="medium")
            axes.grid(alpha=0.3)
    return as_png(figure)


def _scatter(axes: Axes, cost: str, lines: Sequence[Line]) -> None:
    shown = [line for line in lines if cost in line.figures]
    for i, series in enumerate(dict.fromkeys(line.series for line in shown)):
        own = sorted((line for line in shown if line.series == series), key=lambda line: line.figures[cost][0])
        places, psnr = ([line.figures[name][0] for line in own] for name in (cost, "psnr"))
        axes.plot(places, psnr, _MARKERS[i // len(COLORS) % 3] + "-", markersize=4, color=_color(i), label=series)
    axes.set(xlabel=COSTS[cost], ylabel="PSNR, dB")
    if shown:
        axes.legend(frameon=False, fontsize="small")


def _list(axes: Axes, table: Table, lines: Sequence[Line]) -> None:
    for i, line in enumerate(lines):
        mean, spread = line.figures["psnr"]
        axes.errorbar(mean, i, xerr=spread, fmt="o", color=_color(i))
    axes.set_yticks(range(len(lines)), [line.series for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel("PSNR, dB")


def _curves(axes: Axes, table: Table, lines: Sequence[Line]) -> None:
    """One line a series, level where it has no place; words instead of numbers on the axis are not joined."""
    words = any(isinstance(line.x, str) for line in lines)
    for i, series in enumerate(dict.fromkeys(line.series for line in lines)):
        own = [line for line in lines if line.series == series]
        psnr: list[Any] = [line.figures["psnr"][0] for line in own]
        spread = [line.figures["psnr"][1] or 0.0 for line in own]
        if own[0].x is None:
            axes.axhline(psnr[0], linestyle="--", color=_color(i), label=series)
            continue
        places = [_wrapped(line.x) if words else line.x for line in own]
        axes.errorbar(
            places, psnr, yerr=spread, fmt=_MARKERS[i // len(COLORS) % 3] + ("" if words else "-"), markersize=4,
            color=_color(i), label=series,
        )  # fmt: skip
    axes.margins(x=0.15)
    axes.set(xlabel=table.axis[0], ylabel="PSNR, dB")
    axes.legend(frameon=False, fontsize="small")


def _wrapped(text: str) -> str:
    """At most two words a line, so that neighbours do not run into each other."""
    words = text.split()
    return "\n".join(" ".join(words[i : i + 2]) for i in range(0, len(words), 2))


def _color(i: int) -> tuple[float, ...]:
    return tuple(c / 255 for c in COLORS[i % len(COLORS)])
