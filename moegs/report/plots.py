"""Charts, drawn by matplotlib from the ``report`` extra."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moegs.errors import BackendError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(what: str, size: tuple[float, float]) -> Figure:
    """An empty figure of a size in inches, without touching matplotlib's global state.

    Raises:
        BackendError: the ``report`` extra is not installed; the message begins with ``what``.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError(f"{what} needs the 'report' extra: pip install 'moegs[report]'.") from None
    return Figure(figsize=size, layout="constrained")


def as_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def draw_comparison(regions: Mapping[str, Any], frames: Mapping[str, Any]) -> bytes:
    """PSNR by region and by frame as PNG, from ``region_scores`` and ``frame_scores`` of :mod:`moegs.report.regions`.

    Raises:
        BackendError: the ``report`` extra is not installed.
    """
    figure = new_figure("the comparison's chart", (10.0, 4.2))
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _draw_regions(left, regions)
    _draw_frames(right, frames)
    return as_png(figure)


def _draw_regions(axes: Axes, regions: Mapping[str, Any]) -> None:
    """One dot an expert: distances to the best say more here than bars from zero."""
    for i, name in enumerate(next(iter(regions.values()))["psnr"]):
        axes.plot([r["psnr"][name] for r in regions.values()], "o", color=_color(i), markersize=7, label=name)
    axes.set_xticks(range(len(regions)), [f"{n}\n{r['share']:.0%}" for n, r in regions.items()])
    axes.set(xlabel="region and its share of the pixels", ylabel="PSNR, dB")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)


def _draw_frames(axes: Axes, frames: Mapping[str, Any]) -> None:
    for i, (name, curve) in enumerate(frames["psnr"].items()):
        axes.plot(curve, color=_color(i), linewidth=1.5, label=f"{name}, best in {frames['wins'][name]}")
    axes.set(xlabel="frame", ylabel="PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _color(i: int) -> tuple[float, ...]:
    from moegs.report.regions import COLORS

    return tuple(c / 255 for c in COLORS[i % len(COLORS)])
