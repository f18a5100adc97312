"""The page with the figures: tables, plots, and what they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from moegs.io import atomic_write
from moegs.render import native

DOCS = Path(__file__).resolve().parents[1] / "docs"

INTRODUCTION = """# Performance

Forward + backward on the CPU in float32, from Gaussians to image and back to the gradients of means, quaternions,
scales, opacities, harmonics (degree 3) and features: projection, harmonics and sorting are included. Times are medians
in milliseconds over interleaved rounds, in which every candidate takes its turn; "best" is the fastest round. This page
is written by `{command}`.

{machine}
"""


@dataclass(frozen=True)
class Section:
    """A table with its heading and what to know about it, and perhaps a plot."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    plots: dict[str, Callable[[Any], None]] = field(default_factory=dict)  # file name → draws on matplotlib axes

    def markdown(self) -> str:
        """Heading, text, table and pictures."""
        lines = [f"## {self.title}", "", self.text, "", *_table(self.columns, self.rows)]
        for name in self.plots:
            lines += ["", f"![{self.title}](assets/{name})"]
        return "\n".join(lines) + "\n"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(columns), "|" + "---|" * len(columns), *(line(row) for row in rows)]


def machine(ghz: float) -> str:
    """Processor, clock, instruction set, load and versions, as one paragraph."""
    kernels = f"native kernels on {native.isa()}" if native.available() else "no native kernels"
    clock = f"{ghz:.2f} GHz measured" if ghz else "clock not measured"
    return (
        f"Machine: {_processor()}, {_cores()} cores, {clock}; {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}; {kernels}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    return fields.get("model name", "unknown processor") + _family(fields)


def _family(fields: dict[str, str]) -> str:
    found = [f"{key} {fields[name]}" for key, name in (("family", "cpu family"), ("model", "model")) if name in fields]
    return f" ({', '.join(found)})" if found else ""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_page(sections: list[Section], command: str, ghz: float, docs: Path = DOCS) -> Path:
    """Write ``performance.md`` and its plots below ``docs``; returns the page's path."""
    introduction = INTRODUCTION.format(command=command, machine=machine(ghz))
    page = "\n".join([introduction, *(section.markdown() for section in sections)])
    for section in sections:
        for name, draw in section.plots.items():
            _plot(docs / "assets" / name, draw)
    path = docs / "performance.md"
    with atomic_write(path) as file:
        file.write(page.encode())
    return path


def _plot(path: Path, draw: Callable[[Any], None]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.0, 4.0), layout="constrained")
    draw(axes)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)


def log_log(x: list[float], series: dict[str, list[float]], labels: tuple[str, str]) -> Callable[[Any], None]:
    """A drawing of times against sizes on logarithmic axes, with a line of slope one through the last point."""

    def draw(axes: Any) -> None:
        for name, values in series.items():
            axes.loglog(x[: len(values)], values, marker="o", label=name)
        last = next(iter(series.values()))[-1]
        axes.loglog(x, [last * value / x[-1] for value in x], "--", color="grey", label="linear")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()

    return draw
