"""Tables as lists of cells: each is measured once and kept in a file that its content names."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moegs import __version__
from moegs.io import finite, write_json
from moegs.report.paper import measure
from moegs.report.paper.bench import Bench
from moegs.report.paper.measure import AVERAGE, BEST, MIXTURE, ORACLE, ROUTED, Row
from moegs.report.paper.origin import origin
from moegs.report.paper.plan import Plan, content_key
from moegs.train.yardsticks import MOST

What = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """One of the tables.

    Attributes:
        heading: its title.
        note: how to read it.
        axis: heading of the rows' place, with the format of its values.
        columns: figures that are shown, see :data:`moegs.report.paper.gather.COLUMNS`.
        cells: settings of each cell.
        models: folders of what a cell depends on, which their content names; other models make another cell.
        measure: rows of a cell.
        extra: not measured unless it is asked for.
        lacks: what a clip does not have that it takes, and what to do; nothing where it can be measured.
    """

    heading: str
    note: str
    axis: tuple[str, str]
    columns: tuple[str, ...]
    cells: Callable[[Plan], list[dict[str, Any]]]
    models: Callable[[Bench, What], str | list[str]]
    measure: Callable[[Bench, What], list[Row]]
    extra: bool = False
    lacks: Callable[[Bench], str] = lambda bench: ""


def cells_of(bench: Bench, table: str) -> Iterator[What]:
    """Settings of the cells of a table; none if the clip lacks what it takes."""
    return iter([] if lacks(bench, table) else TABLES[table].cells(bench.plan))


def lacks(bench: Bench, table: str) -> str:
    """What the clip does not have that a table takes, and what to do; nothing where the table can be measured."""
    return TABLES[table].lacks(bench)


def label(bench: Bench, table: str, what: What) -> str:
    """A cell's name for people."""
    settings = ", ".join(f"{key} {value}" for key, value in what.items())
    return f"{table}: {bench.scene.name}, seed {bench.seed}" + (f", {settings}" if settings else "")


def cell_key(bench: Bench, table: str, what: What) -> str:
    """Stands for all that a cell depends on: clip, seed, settings, device, version of moegs and the models, by content."""
    plan, models = bench.plan, TABLES[table].models(bench, what)
    return content_key([__version__, table, what, bench.clip, bench.seed, bench.device, plan.every, plan.timed, models])


def cell_file(bench: Bench, table: str, what: What) -> Path:
    """Where a cell is kept."""
    label = [str(v).replace(" ", "_") for v in [*what.values()][:2]]  # for people; the key says all
    name = "-".join([table, bench.scene.name, f"seed{bench.seed}", *label, cell_key(bench, table, what)])
    return bench.out / "cells" / f"{name}.json"


def kept_cell(bench: Bench, table: str, what: What) -> dict[str, Any] | None:
    """A finished cell; None when there is none, or its file was damaged or is another cell's, to be measured again."""
    try:
        cell = json.loads(cell_file(bench, table, what).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return cell if isinstance(cell, dict) and cell.get("key") == cell_key(bench, table, what) else None


def is_measured(bench: Bench, table: str, what: What) -> bool:
    """Whether a cell is finished."""
    return kept_cell(bench, table, what) is not None


def rows_of(bench: Bench, table: str, what: What) -> list[Row]:
    """Rows of a cell, measured now or before."""
    kept = kept_cell(bench, table, what)
    if kept is not None:
        return kept["rows"]
    started = time.perf_counter()
    rows = TABLES[table].measure(bench, what)
    write_json(cell_file(bench, table, what), {
        "table": table, "clip": bench.scene.name, "seed": bench.seed, "what": dict(what),
        "key": cell_key(bench, table, what), "command": f"{bench.command} --only {table}",
        "seconds": time.perf_counter() - started, **origin(bench.device), "trained": _codes(bench, table, what),
        "rows": [finite(row) for row in rows],
    })  # fmt: skip
    return rows


def _codes(bench: Bench, table: str, what: What) -> list[str]:
    """By what code the models of a cell were trained."""
    models = TABLES[table].models(bench, what)
    return sorted({code for model in ([models] if isinstance(models, str) else models) for code in bench.codes(model)})


def _mix(n: int) -> dict[str, Any]:
    return {"mix": n}


def _experts(bench: Bench, what: What) -> list[Row]:
    if "expert" in what:
        return measure.expert_rows(bench, what["expert"])
    return measure.mixture_rows(bench, bench.plan.experts[: what["mix"]], what["mix"])


def _expert_models(bench: Bench, what: What) -> str:
    if "expert" in what:
        return bench.expert_key(what["expert"])
    return bench.refined_key(bench.plan.experts[: what["mix"]])


def _fixed(bench: Bench) -> dict[str, Row]:
    """The mixture that most tables are about, and its yardsticks, by series."""
    return {row["series"]: row for row in rows_of(bench, "experts", _mix(len(bench.plan.names)))}


def _routers(bench: Bench, what: What) -> list[Row]:
    known = _fixed(bench)
    if what["router"] == "none":
        return [known[series] | {"x": None} for series in (BEST, AVERAGE, ORACLE)]
    if what["router"] == "volume-pixel":
        return [
            known[ROUTED] | {"series": "volume-pixel", "x": None},
            known[MIXTURE] | {"series": "volume-pixel, refined", "x": None},
        ]
    rows = measure.router_rows(bench, what["router"])
    return measure.with_gains(rows, known[BEST]["psnr"], known[ORACLE]["psnr"])


def _router_models(bench: Bench, what: What) -> list[str]:
    kind = "volume-pixel" if what["router"] == "none" else what["router"]
    return [bench.mixture_key(bench.plan.names, kind), bench.refined_key(bench.plan.names)]


def _mixture_model(bench: Bench, what: What) -> str:
    return bench.refined_key(bench.plan.names)


def _pruning_cells(plan: Plan) -> list[dict[str, Any]]:
    how = {"rounds": plan.rounds, "scored": plan.scored, "refit": plan.refit}
    whole = [{}, {"refit": plan.refit}] if plan.refit else [{}]
    return [*whole, *({"criterion": c, "ratio": r} | how for c in plan.criteria for r in plan.ratios)]


def _pruning_models(bench: Bench, what: What) -> list[str]:
    whole = [bench.refined_key(bench.plan.names)]
    if "criterion" in what:
        return [*whole, bench.pruned_key(**what)]
    return [*whole, bench.pruned_key("opacity", 0.0, 2, 1, what["refit"])] if what.get("refit") else whole


def _pruning(bench: Bench, what: What) -> list[Row]:
    return measure.pruning_rows(bench, **what) if "criterion" in what else measure.whole_rows(bench, **what)


def _budget(bench: Bench, what: What) -> list[Row]:
    """Rows at a share of the budget, with gains over the best expert that had all of it."""
    rows = measure.mixture_rows(bench, bench.plan.names, what["share"], share=what["share"])
    full = _fixed(bench)[BEST]["psnr"]
    return [{k: v for k, v in r.items() if k != "closed"} | {"gain": r["psnr"] - full} for r in rows]


def _budget_models(bench: Bench, what: What) -> list[str]:
    return [bench.refined_key(bench.plan.names, share=what["share"]), bench.refined_key(bench.plan.names)]


def _sparse_cells(plan: Plan) -> list[dict[str, Any]]:
    reached = 1 / len(plan.names)  # one of the gates always is as large
    bound = [{"loss": plan.bearable}] if len(plan.names) <= MOST else []  # tries all subsets
    return [*bound, *({"min_gate": g} for g in plan.min_gates if g < reached)]


def _sparse(bench: Bench, what: What) -> list[Row]:
    return measure.fewest_rows(bench, **what) if "loss" in what else measure.sparse_rows(bench, **what)


STACKING = {
    "experts and router on all": ("all", "all"),
    "both without the kept cameras": ("experts", "experts"),
    "router on the cameras kept from the experts": ("experts", "router"),
}


def _stage(what: What) -> dict[str, str]:
    views, router_views = STACKING[what["stacking"]]
    return {"views": views, "router_views": router_views}


def _stacking(bench: Bench, what: What) -> list[Row]:
    rows = measure.routed_rows(bench, bench.plan.names, what["stacking"], **_stage(what))
    return [r for r in rows if r["series"] in (BEST, ROUTED)]


def _stacking_lacks(bench: Bench) -> str:
    n, kept = len(bench.scene.train), bench.plan.left_out
    if kept < n:
        return ""
    enough = f"expected left_out (--left-out) of 1 to {n - 1}, got {kept}" if n > 1 else "expected at least 2"
    return f"{bench.scene.name} has {n} training camera{'s' * (n > 1)} for experts and router to share; {enough}."


TABLES = {
    "experts": Table(
        "Experts and mixtures of them",
        "Gain is over the best expert in the mixture; the oracle picks the expert nearest to the photograph at each pixel. "
        "Router alone: experts as they were trained, as in the paper; mixture: experts and router then learned on together. "
        "FPS of each line at its own time: on a busy machine compare those of pruning and sparse gates, taken in turns.",
        ("experts", "{}"), ("psnr", "ssim", "gain", "closed", "gaussians", "megabytes", "fps"),
        lambda p: [*({"expert": n} for n in p.experts), *(_mix(n) for n in range(2, len(p.experts) + 1))],
        _expert_models, _experts,
    ),
    "routers": Table(
        "Routers", "One set of experts. Volume: opacities of one merged scene. Pixel: rays, time and colours alone. "
        "FPS of each line at its own time.",
        ("", "{}"), ("psnr", "ssim", "gain", "closed", "megabytes", "fps"),
        lambda p: [{"router": r} for r in ("none", "volume", "pixel", "volume-pixel")], _router_models, _routers,
    ),
    "pruning": Table(
        "Single pass and pruning",
        "Experts and router learn on after pruning; \"not pruned, trained on\" does so for as long. FPS of one pass over all "
        "experts, and of one rasteriser call an expert; times faster: than the whole mixture, whose dearest expert it is.",
        ("dropped", "{:.0%}"), ("psnr", "ssim", "fps", "separate_fps", "speedup", "times_dearest", "megabytes", "gaussians"),
        _pruning_cells, _pruning_models, _pruning,
    ),
    "budget": Table(
        "Experts with part of their budget", "Gain is over the best expert that had all of its steps. Router and "
        "refinement have all of theirs.",
        ("steps", "{:.0%}"), ("psnr", "ssim", "gain"),
        lambda p: [{"share": s} for s in p.shares], _budget_models, _budget,
    ),
    "distillation": Table(
        "Distilled and retrained",
        "The same expert trained on for as many steps, on photographs alone or taught by the mixture, whose Gaussians it "
        "tries beside its own for a while. Gain is over photographs alone.",
        ("student", "{}"), ("psnr", "ssim", "gain"),
        lambda p: [{"student": n, "share": p.distilled} for n in p.names],
        lambda bench, what: [f"{measure.student_key(bench, **what)}/{how}" for how in ("retrained", "distilled")],
        lambda bench, what: measure.student_rows(bench, **what),
    ),
    "fusion": Table(
        "One fused model",
        "All experts' Gaussians in one ordinary model, dimmed by how far the gates trust them, and after it learnt on from "
        "the photographs. Gain is over the mixture.",
        ("", "{}"), ("psnr", "ssim", "gain", "gaussians", "megabytes", "fps"),
        lambda p: [{"scored": p.scored, "refit": p.fused}],
        lambda bench, what: [bench.refined_key(bench.plan.names), bench.fused_key(**what)],
        lambda bench, what: measure.fused_rows(bench, **what),
    ),
    "sparse": Table(
        "Sparse gates",
        "An expert is left out of tiles where its gate stays below the least one. Gain is over all gates. Fewest tiles: a "
        "bound, chosen by the photograph.",
        ("least gate", "{:g}"), ("psnr", "gain", "ms", "times_dearest", "tiles", "largest_error"),
        _sparse_cells, _mixture_model, _sparse,
    ),
    "stacking": Table(
        "Stacking", "A router that learns from cameras which the experts never saw.",
        ("trained", "{}"), ("psnr", "ssim", "gain", "closed"),
        lambda p: [{"stacking": s, "left_out": p.left_out} for s in STACKING],
        lambda bench, what: bench.mixture_key(bench.plan.names, **_stage(what)), _stacking, extra=True,
        lacks=_stacking_lacks,
    ),
}  # fmt: skip
"""All tables by name. ``stacking`` needs another set of experts and is measured on demand."""
