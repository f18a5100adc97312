"""The paper's tables on a tiny clip: what is measured, that it is measured once, and how it is shown."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from moegs.data import load_scene
from moegs.data.synth import synthesize
from moegs.distill import DistillConfig
from moegs.errors import BackendError, ConfigError
from moegs.io import write_json
from moegs.report import paper
from moegs.report.paper import Bench, Plan, bench, cells, gather, measure
from moegs.report.paper.cells import TABLES, cell_file
from moegs.report.paper.draw import draw_table
from moegs.report.paper.measure import separate_renderer
from moegs.report.paper.plan import prior_and_seed
from moegs.route import render_mixture

PLAN = Plan(
    experts=("polynomial", "interpolation"), steps=4, every=4, timed=1, ratios=(0.5,), criteria=("gate", "random"), rounds=1,
    scored=2, refit=1, shares=(0.5, 1.0), min_gates=(0.1, 0.9), left_out=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench on which every table is measured."""
    folder = tmp_path_factory.mktemp("paper")
    clip = synthesize(folder / "room", cameras=4, frames=4, size=(48, 32), progress=False)
    scene = load_scene(clip, cache_dir=folder / "frames")
    finished = Bench(scene, PLAN, 0, folder / "out", "tables --data room", progress=False)
    for table in TABLES:
        for what in cells.cells_of(finished, table):
            assert not paper.is_measured(finished, table, what)
            assert cells.rows_of(finished, table, what)
            assert paper.is_measured(finished, table, what)
    return finished


def lines(made: Bench, table: str) -> dict:
    """Means of a table's figures by series and place."""
    found = gather.gathered([made])[table]
    assert list(found) == ["room"]
    return {(li.series, li.x): {k: m for k, (m, _) in li.figures.items()} for li in found["room"]}


def test_experts_and_their_mixture(made):
    found = lines(made, "experts")
    assert list(found) == [
        ("polynomial", 1), ("interpolation", 1), ("best expert", 2), ("uniform average", 2), ("router alone", 2),
        ("mixture", 2), ("per-pixel oracle", 2),
    ]  # fmt: skip
    best = max(found[n, 1]["psnr"] for n in PLAN.experts)
    assert found["best expert", 2]["psnr"] == pytest.approx(best) and found["best expert", 2]["gain"] == 0
    assert found["per-pixel oracle", 2]["psnr"] >= best
    assert found["mixture", 2]["gain"] == pytest.approx(found["mixture", 2]["psnr"] - best)
    assert found["mixture", 2]["gaussians"] == sum(found[n, 1]["gaussians"] for n in PLAN.experts)
    assert found["mixture", 2]["megabytes"] > sum(found[n, 1]["megabytes"] for n in PLAN.experts)


def test_routers_have_the_same_experts(made):
    found, mixed = lines(made, "routers"), lines(made, "experts")
    assert {s for s, _ in found} == {
        "best expert", "uniform average", "volume", "pixel", "volume-pixel", "volume-pixel, refined",
        "per-pixel oracle",
    }  # fmt: skip
    assert found["volume-pixel", None]["psnr"] == mixed["router alone", 2]["psnr"]
    assert found["volume-pixel, refined", None]["psnr"] == mixed["mixture", 2]["psnr"]
    best = found["best expert", None]["psnr"]
    assert all(f["gain"] == pytest.approx(f["psnr"] - best) for f in found.values())
    assert len({f["psnr"] for f in found.values()}) == 7


def test_pruning_halves_what_it_is_told_to_halve(made):
    found = lines(made, "pruning")
    assert set(found) == {("not pruned", 0.0), ("not pruned, trained on", 0.0), ("gate", 0.5), ("random", 0.5)}
    assert found["not pruned", 0.0]["psnr"] != found["not pruned, trained on", 0.0]["psnr"]
    whole = found["not pruned", 0.0]
    assert found["gate", 0.5]["gaussians"] == found["random", 0.5]["gaussians"] == whole["gaussians"] // 2
    assert found["gate", 0.5]["megabytes"] < 0.6 * whole["megabytes"]
    assert all(f["fps"] > 0 and f["separate_fps"] > 0 and f["speedup"] > 0 for f in found.values())


def test_budgets_gain_over_the_best_full_expert(made):
    found = lines(made, "budget")
    assert {x for _, x in found} == {0.5, 1.0}
    full = lines(made, "experts")["best expert", 2]["psnr"]
    assert found["best expert", 1.0]["psnr"] == full
    assert found["mixture", 0.5]["gain"] == pytest.approx(found["mixture", 0.5]["psnr"] - full)
    assert made.expert("polynomial", 0.5).meta["steps"] == 2 and made.expert("polynomial").meta["steps"] == 4


def test_students_are_compared_with_photographs_alone(made):
    found = lines(made, "distillation")
    assert {x for _, x in found} == set(PLAN.experts)
    assert all(found["retrained", n]["gain"] == 0 for n in PLAN.experts)
    assert all(found["before", n]["psnr"] != found["distilled", n]["psnr"] for n in PLAN.experts)


def test_a_fused_model_is_as_large_and_learns_on(made):
    found = lines(made, "fusion")
    assert [s for s, _ in found] == ["mixture", "fused", "fused, trained on"]
    whole = found["mixture", None]
    assert whole["psnr"] == lines(made, "experts")["mixture", 2]["psnr"] and whole["gain"] == 0
    assert len({f["gaussians"] for f in found.values()}) == 1 and len({f["psnr"] for f in found.values()}) == 3
    assert made.fused(PLAN.scored, PLAN.fused)[1].meta["steps"] == PLAN.capped(round(PLAN.fused * made.refining.steps))


def test_gates_that_cannot_be_that_small_are_left_out(made):
    found = lines(made, "sparse")
    assert set(found) == {("all gates", 0.1), ("sparse gates", 0.1), ("fewest tiles", None)}
    assert 0 < found["fewest tiles", None]["tiles"] <= 1 and found["fewest tiles", None]["gain"] >= -PLAN.bearable - 0.01
    assert 0 < found["sparse gates", 0.1]["tiles"] <= 1 and found["sparse gates", 0.1]["times_dearest"] > 0


def test_stacking_keeps_views_from_the_experts(made):
    assert TABLES["stacking"].extra
    assert len({x for _, x in lines(made, "stacking")}) == 3
    assert set(made.cameras("experts")) | set(made.cameras("router")) == set(made.scene.train)
    assert len(made.cameras("router")) == 1


def test_small_rigs_have_no_cameras_for_stacking(made):
    narrow = replace(made, plan=replace(PLAN, left_out=len(made.scene.train)))
    assert not list(cells.cells_of(narrow, "stacking"))
    assert "room has 3 training cameras" in paper.lacks(narrow, "stacking")
    assert "left_out (--left-out) of 1 to 2, got 3" in paper.lacks(narrow, "stacking")
    lonely = replace(made, scene=replace(made.scene, train=made.scene.train[:1]))
    assert "room has 1 training camera for" in paper.lacks(lonely, "stacking")
    assert not any(paper.lacks(made, table) for table in TABLES)
    assert list(gather.gathered([narrow])) == [table for table in TABLES if table != "stacking"]


def test_models_are_trained_once_and_checkpoints_dropped(made):
    trained = [p.parent.name for p in made.models.glob("*/expert.safetensors")]
    for prior in PLAN.experts:  # whole, half the steps, without the kept camera
        assert sum(name.startswith(prior + "-") and "taught" not in name for name in trained) == 3
    assert not list(made.models.rglob("checkpoint.safetensors"))


def test_finished_cells_are_not_measured_again(made, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("measured again")

    for table in TABLES:
        monkeypatch.setitem(TABLES, table, replace(TABLES[table], measure=refuse))
        assert all(cells.rows_of(made, table, what) for what in cells.cells_of(made, table))


def test_a_lost_cell_is_measured_on_the_models_that_are_there(made, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(bench.train, "fit_expert", refuse)
    monkeypatch.setattr(bench.train, "fit_router", refuse)
    file = cell_file(made, "experts", {"mix": 2})
    before = json.loads(file.read_text())
    file.unlink()
    again = cells.rows_of(made, "experts", {"mix": 2})
    assert [r["psnr"] for r in again] == [r["psnr"] for r in before["rows"]]


def test_a_cell_says_how_it_came_about(made):
    cell = json.loads(cell_file(made, "routers", {"router": "pixel"}).read_text())
    assert cell["command"] == "tables --data room --only routers" and cell["seed"] == 0
    assert cell["versions"]["torch"] == torch.__version__ and cell["threads"] >= 1
    assert cell["backend"] in ("native", "reference") and cell["seconds"] > 0


@pytest.mark.parametrize(
    "changed", [{"every": 2}, {"timed": 3}, {"steps": 5}, {"budget": "medium"}, {"experts": ("interpolation", "polynomial")}]
)
def test_other_settings_make_another_cell(made, changed):
    changed = {"steps": None} | changed if "budget" in changed else changed
    other = replace(made, plan=replace(PLAN, **changed))
    assert cell_file(other, "experts", {"mix": 2}) != cell_file(made, "experts", {"mix": 2})
    assert cell_file(replace(made, seed=1), "experts", {"mix": 2}) != cell_file(made, "experts", {"mix": 2})


@pytest.mark.parametrize("table", list(TABLES))
def test_another_version_measures_and_trains_anew(made, monkeypatch, table):
    what = next(cells.cells_of(made, table))
    before, key = cell_file(made, table, what), made.expert_key("polynomial")
    monkeypatch.setattr(cells, "__version__", "9.9")
    assert cell_file(made, table, what) != before and not paper.is_measured(made, table, what)
    assert made.expert_key("polynomial") == key
    monkeypatch.setattr(bench, "__version__", "9.9")
    assert made.expert_key("polynomial") != key


def test_other_lessons_make_another_student(made, monkeypatch):
    file = cell_file(made, "distillation", {"student": "polynomial", "share": 0.5})
    monkeypatch.setattr(measure, "DistillConfig", lambda fit: DistillConfig(weight=0.25, fit=fit))
    assert cell_file(made, "distillation", {"student": "polynomial", "share": 0.5}) != file


@pytest.mark.parametrize("content", ["", '{"rows": [', "[]", '{"rows": [], "key": "of another cell"}'])
def test_a_damaged_cell_is_measured_again(made, content):
    file, what = cell_file(made, "experts", {"mix": 2}), {"mix": 2}
    before = file.read_text()
    file.write_text(content)
    assert not paper.is_measured(made, "experts", what)
    assert [r["psnr"] for r in cells.rows_of(made, "experts", what)] == [r["psnr"] for r in json.loads(before)["rows"]]
    assert paper.is_measured(made, "experts", what)


def test_tables_say_when_cells_were_not_measured_alike(made):
    file = cell_file(made, "experts", {"mix": 2})
    before = file.read_text()
    assert "Not measured alike" not in gather.markdown(gather.gathered([made]), [made])
    file.write_text(json.dumps(json.loads(before) | {"code": "123456789abc", "threads": 77}))
    text = gather.markdown(gather.gathered([made]), [made])
    file.write_text(before)
    assert "## Not measured alike" in text and "77 (1 cells)" in text and "123456789abc (1 cells)" in text
    assert "backend:" not in text


def test_a_cell_says_by_what_code_its_models_were_trained(made):
    """Measured again, a model of older code is still one of older code."""
    what, noted = {"mix": 2}, made.models / made.refined_key(PLAN.names) / bench.CODES
    file = cell_file(made, "experts", what)
    cell, codes = file.read_text(), noted.read_text()
    assert json.loads(cell)["trained"] == json.loads(codes) == [json.loads(cell)["code"]]
    noted.write_text(json.dumps(["123456789abc"]))
    file.unlink()
    cells.rows_of(made, "experts", what)
    text = gather.markdown(gather.gathered([made]), [made])
    noted.write_text(codes)
    file.write_text(cell)
    assert "trained: " in text and "123456789abc (1 cells)" in text and "\ncode: " not in text


def test_further_ratios_leave_cells_where_they_are(made):
    other = replace(made, plan=replace(PLAN, ratios=(0.3, 0.5)))
    names = {cell_file(other, "pruning", what).name for what in cells.cells_of(other, "pruning")}
    assert {cell_file(made, "pruning", what).name for what in cells.cells_of(made, "pruning")} < names


def test_separate_renders_blend_to_the_same(made):
    mixture, camera = made.mixture(PLAN.names), made.scene.cameras[0]
    one = render_mixture(mixture, camera, 0.25).color
    assert (separate_renderer(mixture)(camera, 0.25) - one).abs().max() < 1e-5


def _pretend(made: Bench, out: Path, seed: int, psnr: float, name: str = "room") -> Bench:
    """A bench with one cell that somebody wrote."""
    pretended = replace(made, out=out, seed=seed, scene=replace(made.scene, name=name))
    row = {"series": "polynomial", "x": 1, "psnr": psnr, "ssim": 0.5, "gain": -psnr / 100, "gaussians": 12345}
    what = {"expert": "polynomial"}
    content = {"table": "experts", "clip": name, "seed": seed, "what": {}, "seconds": 1.0, "command": f"seed {seed}"}
    content |= {"key": cells.cell_key(pretended, "experts", what)}
    write_json(cell_file(pretended, "experts", what), content | {"rows": [row]})
    return pretended


def test_seeds_become_mean_and_spread(made, tmp_path):
    some = [_pretend(made, tmp_path, seed, psnr) for seed, psnr in enumerate((20.0, 22.0, 24.0))]
    (line,) = gather.gathered(some)["experts"]["room"]
    assert line.figures["psnr"] == (22.0, 2.0) and line.n == 3
    text = gather.markdown(gather.gathered(some), some)
    assert "| polynomial | 1 | 22.00 ± 2.00 | 0.5000 ± 0.0000 | -0.22 ± 0.02 | 12,345 ± 0 |" in text
    assert "seeds 0, 1, 2; ± is the standard deviation over seeds." in text and "\n    seed 2\n" in text


def test_the_spread_over_clips_is_named(made, tmp_path):
    hall = _pretend(made, tmp_path, 0, 20.0, "hall")
    assert "±" not in gather.markdown(gather.gathered([hall]), [hall])
    some = [hall, _pretend(made, tmp_path, 0, 22.0, "yard")]
    text = gather.markdown(gather.gathered(some), some)
    assert "seed 0; ± is the standard deviation over clips in means over clips." in text and "21.00 ± 1.41" in text


def test_a_cell_that_comes_twice_counts_once(made, tmp_path):
    twice = [_pretend(made, tmp_path, 0, 20.0), _pretend(made, tmp_path, 0, 20.0)]
    (line,) = gather.gathered(twice)["experts"]["room"]
    assert line.figures["psnr"] == (20.0, None) and line.n == 1


def test_clips_become_a_mean_of_means(made, tmp_path):
    some = [_pretend(made, tmp_path, 0, 20.0), _pretend(made, tmp_path, 1, 22.0), _pretend(made, tmp_path, 0, 31.0, "hall")]
    found = gather.gathered(some)["experts"]
    assert list(found) == ["room", "hall", "mean over clips"]
    assert found["hall"][0].figures["psnr"] == (31.0, None)
    assert found["mean over clips"][0].figures["psnr"][0] == 26.0
    with Image.open(io.BytesIO(draw_table(TABLES["experts"], found))) as picture:
        assert picture.width > 3 * 400


def test_tables_are_written_in_all_forms(made, tmp_path):
    gather.write_tables([made], tmp_path)
    gather.write_plots([made], tmp_path)
    saved = json.loads((tmp_path / "tables.json").read_text())
    assert set(saved["tables"]) == set(TABLES) and saved["plan"]["experts"] == list(PLAN.experts)
    assert saved["plan"]["mixed"] == 2
    assert {c["file"] for c in saved["cells"]} == {p.name for p in (made.out / "cells").iterdir()}
    assert all(c["command"].endswith(c["table"]) and c["seed"] == 0 for c in saved["cells"])
    text = (tmp_path / "tables.md").read_text()
    assert all(f"## {table.heading}" in text for table in TABLES.values())
    plots = {p.stem for p in (tmp_path / "plots").iterdir()}
    assert set(TABLES) < plots and {"pruning-cost", "sparse-cost"} <= plots - set(TABLES)


def test_without_matplotlib_there_are_no_plots(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match="report"):
        gather.write_plots([made], tmp_path)
    assert not list(tmp_path.iterdir())


def test_repeated_priors_have_seeds_of_their_own():
    names = paper.numbered(["interpolation", "interpolation"])
    seeds = {prior_and_seed(name, seed) for name in names for seed in range(3)}
    assert len(seeds) == 6 and {prior for prior, _ in seeds} == {"interpolation"}


def test_three_are_mixed_or_as_many_as_there_are():
    assert len(PLAN.names) == 2 and len(Plan().names) == 3 and len(Plan(mixed=5).names) == 5


def test_the_fewest_tiles_are_told_of_few_experts():
    assert TABLES["sparse"].cells(Plan()) == [{"loss": 0.05}, *({"min_gate": g} for g in (0.02, 0.05, 0.1, 0.2))]
    many = Plan(experts=paper.numbered(["polynomial"] * 9), mixed=9)
    assert TABLES["sparse"].cells(many) == [{"min_gate": g} for g in (0.02, 0.05, 0.1)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budget": "huge"}, "budget: expected one of small, medium, full, got 'huge'"),
        ({"experts": ("foo", "interpolation")}, "experts: expected motion priors .*, got 'foo'"),
        ({"experts": ("polynomial-0", "interpolation")}, "experts: expected motion priors .*, got 'polynomial-0'"),
        ({"mixed": 0}, "mixed: expected 2 to 5.*, got 0"),
        ({"mixed": -1}, "mixed: expected 2 to 5.*, got -1"),
        ({"mixed": 1}, "mixed: expected 2 to 5.*, got 1"),
        ({"mixed": 6}, "mixed: expected 2 to 5.*, got 6"),
        ({"experts": ("polynomial", "hexplane"), "mixed": 3}, "mixed: expected 2 to 2.*, got 3"),
        *(({name: 0}, f"{name}: expected at least 1, got 0")
          for name in ("steps", "every", "timed", "rounds", "scored", "left_out")),
        *(({name: value}, f"{name}: expected a number of at least 0, got {value}")
          for name in ("refit", "bearable") for value in (-1, math.nan, math.inf)),
        *(({name: (value,)}, rf"{name}: expected numbers in \[0, 1\), got {value}")
          for name in ("ratios", "min_gates") for value in (-0.1, 1.0, math.nan)),
        *(({"shares": (value,)}, rf"shares: expected a share in \(0, 1\], got {value}") for value in (0, 1.5, math.nan)),
        ({"distilled": 0.0}, r"distilled: expected a share in \(0, 1\], got 0.0"),
        ({"criteria": ("beauty",)}, "criteria: expected one of blend, .*, got 'beauty'"),
        ({"criteria": ("blend", "blend")}, "criteria: expected each once, got blend again"),
        ({"ratios": (0.5, 0.2, 0.5)}, "ratios: expected each once, got 0.5 again"),
        ({"shares": (1, 1.0)}, "shares: expected each once, got 1.0 again"),
        ({"min_gates": (0.1, 0.1)}, "min_gates: expected each once, got 0.1 again"),
    ],
)  # fmt: skip
def test_a_plan_refuses_what_has_no_meaning(wrong, says):
    with pytest.raises(ConfigError, match=says):
        Plan(**wrong)


@pytest.mark.parametrize("experts", [("polynomial",), ("polynomial", "polynomial"), ("polynomial", "polynomial-1")])
def test_a_plan_needs_two_different_experts(experts):
    with pytest.raises(ConfigError, match="two or more different"):
        Plan(experts=experts)
    assert asdict(Plan())["experts"] == paper.PRIORS
