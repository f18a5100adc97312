"""The recipe of the tables, on a tiny clip and for a few steps."""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.recipes.support import RECIPES, attempt, background, run, until

QUICK = ["--steps", 3, "--every", 4, "--timed", 1, "--experts", "polynomial", "polynomial", "--quiet"]


def hidden_matplotlib(folder: Path) -> str:
    """A folder that hides matplotlib from who looks there first."""
    (folder / "matplotlib").mkdir(parents=True)
    (folder / "matplotlib" / "__init__.py").write_text("raise ImportError('not installed')")
    return str(folder)


@pytest.fixture(scope="module")
def recipe() -> dict:
    """The recipe's names, loaded once for all that it refuses: a process each would take seconds."""
    return runpy.run_path(str(RECIPES / "paper_tables.py"))


def refused(recipe: dict, monkeypatch: pytest.MonkeyPatch, *options: object) -> object:
    """The exit code of a recipe that ends early."""
    monkeypatch.setattr(sys, "argv", ["recipes/paper_tables.py", *map(str, options)])
    with pytest.raises(SystemExit) as left:
        recipe["main"]()
    return left.value.code


@pytest.fixture(scope="module")
def finished(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("tables")
    return out, run("paper_tables.py", "--data", clip, "--out", out, *QUICK, "--only", "experts")


def test_it_prints_and_writes_the_tables(finished):
    out, printed = finished
    text = (out / "tables.md").read_text()
    assert text in printed
    for word in ("polynomial-2", "uniform average", "per-pixel oracle", "PSNR, dB", "gain, dB", "## Commands"):
        assert word in text
    assert {p.name for p in (out / "plots").iterdir()} == {"experts.png", "experts-cost.png"}
    assert len(list((out / "cells").iterdir())) == 3
    assert "[3/3] experts: room, seed 0, mix 2" in printed


def test_its_commands_measure_the_same_again(finished, clip, tmp_path):
    cells = json.loads((finished[0] / "tables.json").read_text())["cells"]
    command = cells[0]["command"]
    assert command.startswith("python recipes/paper_tables.py --data") and command.endswith("--only experts")
    words = shlex.split(command)[2:]
    words[words.index("--out") + 1] = str(tmp_path)
    run("paper_tables.py", *words, "--quiet")
    again = json.loads((tmp_path / "tables.json").read_text())
    assert [c["file"] for c in again["cells"]] == [c["file"] for c in cells]
    figures = [[li["figures"]["psnr"] for li in json.loads((o / "tables.json").read_text())["tables"]["experts"]["room"]]
               for o in (finished[0], tmp_path)]  # fmt: skip
    assert figures[0] == figures[1]


def test_again_it_measures_only_what_is_missing(finished, clip, tmp_path):
    out, _ = finished
    kept = {p: p.stat().st_mtime_ns for p in [*out.glob("cells/*"), *out.glob("models/*/*.safetensors")]}
    lost = next(p for p in kept if p.parent.name == "cells")
    lost.unlink()
    hidden = hidden_matplotlib(tmp_path / "first")
    printed = run("paper_tables.py", "--data", clip, "--out", out, *QUICK, "--only", "experts", first=hidden)
    assert printed.count(" dB, ") == 1 and lost.exists()
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items() if p != lost)
    assert "no plots: a table's plot needs the 'report' extra" in printed


def test_what_was_killed_goes_on(clip, tmp_path):
    longer = ["--steps", 30, *QUICK[2:], "--only", "experts"]
    words = ["paper_tables.py", "--data", clip, "--out", tmp_path / "out", *longer]
    with background(*words) as process:
        until(lambda: list(tmp_path.glob("out/cells/experts-*.json")))
    assert process.returncode == -signal.SIGKILL
    printed = run(*words)
    assert "[3/3] experts: room, seed 0, mix 2" in printed and "0 of them measured before" not in printed
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 3


def test_one_cell_that_fails_leaves_the_others(finished, clip, tmp_path):
    """One model of a copy is damaged, and the cells are lost: those without it are measured all the same."""
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    shutil.rmtree(out / "cells")
    next(out.glob("models/polynomial-2-*/expert.safetensors")).write_bytes(b"damaged")
    done = attempt("paper_tables.py", "--data", clip, "--out", out, *QUICK, "--only", "experts")
    assert done.returncode == 1 and "not a readable safetensors file" in done.stdout
    assert "1 of 3 cells failed" in done.stderr and "experts: room, seed 0, expert polynomial-2" in done.stderr
    assert sorted(p.name.split("-")[3] for p in (out / "cells").iterdir()) == ["2", "polynomial"]
    assert (out / "tables.md").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--every", 0], "--every: expected at least 1, got 0"),
        (["--steps", 0], "--steps: expected at least 1, got 0"),
        (["--timed", 0], "--timed: expected at least 1, got 0"),
        (["--left-out", 0], "--left-out: expected at least 1, got 0"),
        (["--ratios", 0.2, 1.5], "--ratios: expected numbers in [0, 1), got 1.5"),
        (["--min-gates", 0.1, 0.1], "--min-gates: expected each once, got 0.1 again"),
        (["--criteria", "beauty"], "--criteria: "),
        (["--test", "cam77"], "no camera 'cam77'"),
        (["--budget", "huge"], "--budget: expected one of small, medium, full, got 'huge'"),
        (["--experts", "foo", "interpolation"], "--experts: expected motion priors"),
        (["--mixed", -1], "--mixed: expected 2 to 5, which are all experts, got -1"),
        (["--mixed", 9], "--mixed: expected 2 to 5, which are all experts, got 9"),
        (["--seeds", 1, 1], "--seeds: expected each once, got 1 again"),
        (["--only", "stacking", "stacking"], "--only: expected each once, got stacking again"),
        (["--scale", 0], "--scale: expected a factor in (0, 1], got 0.0"),
        (["--frames", 0], "frames 0"),
    ],
)
def test_bad_options_are_refused_at_once(recipe, clip, tmp_path, capsys, monkeypatch, options, says):
    assert refused(recipe, monkeypatch, "--data", clip, "--out", tmp_path / "out", *options) == 2
    out, error = capsys.readouterr()
    assert says in error and not out and not (tmp_path / "out").exists()


def test_one_clip_twice_is_refused(recipe, clip, tmp_path, capsys, monkeypatch):
    (tmp_path / "link").symlink_to(clip)
    assert refused(recipe, monkeypatch, "--data", clip, tmp_path / "link", "--out", tmp_path / "out") == 2
    assert f"--data: expected each once, got {clip.resolve()} again" in capsys.readouterr().err


def test_a_rig_too_small_for_stacking_says_so(recipe, clip, tmp_path, capsys, monkeypatch):
    words = ["--data", clip, "--out", tmp_path / "out", "--only", "stacking"]
    assert refused(recipe, monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert "stacking: room has 3 training cameras" in said and "(--left-out) of 1 to 2, got 4" in said
    assert not (tmp_path / "out" / "tables.md").exists()


def test_other_tables_are_measured_on_a_small_rig(finished, clip):
    printed = run("paper_tables.py", "--data", clip, "--out", finished[0], *QUICK, "--only", "experts", "stacking")
    assert "stacking: room has 3 training cameras" in printed and "3 cells, 3 of them measured before" in printed


def test_it_stays_short():
    assert len((RECIPES / "paper_tables.py").read_text().splitlines()) < 120
