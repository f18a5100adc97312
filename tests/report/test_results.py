from __future__ import annotations

import io
import json
import math
import shlex
import sys

import pytest
from rich.console import Console

from moegs.metrics import FrameScores
from moegs.report import command_line, print_table, score_row, versions, write_results


def test_scores_keep_their_conventions_and_stay_json():
    row = score_row(FrameScores(psnr=math.inf, ssim_inria=1.0, ssim_skimage1=1.0, ssim_skimage2=None))
    assert row["psnr"] is None and row["ssim"] == 1.0
    assert row["scores"]["ssim_skimage2"] == "not computed" == row["scores"]["lpips"]
    json.dumps(row, allow_nan=False)


def test_lpips_is_a_column_only_where_it_was_computed():
    rows = {"a": score_row(FrameScores(30.0, 0.9, 0.9, 0.9, lpips=0.125)), "b": {"psnr": 20.0, "ssim": 0.5}}
    console = Console(file=io.StringIO(), width=100)
    print_table("scene", rows, console)
    lines = console.file.getvalue().splitlines()
    assert any("LPIPS" in line for line in lines) and any("0.1250" in line for line in lines)
    assert not any("Gaussians" in line for line in lines)
    assert any("30.00" in line and "0.9000" in line for line in lines)


def test_versions_name_what_figures_depend_on():
    assert {"python", "machine", "moegs", "torch", "numpy"} <= set(versions())


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("/home/ann/.venv/bin/moegs", "moegs"),
        ("moegs.exe", "moegs"),
        ("/home/ann/moegs/cli/moegs_cli/__main__.py", "moegs"),
        ("/home/ann/other/__main__.py", "python -m other"),
        ("/home/ann/moegs/recipes/moe_n3v.py", "python recipes/moe_n3v.py"),
        ("recipes/moe_n3v.py", "python recipes/moe_n3v.py"),
        ("/home/ann/mine.py", "python mine.py"),
        ("/usr/bin/ipython", "ipython"),
    ],
)
def test_the_command_can_be_typed_again(monkeypatch, program, shown):
    words = ["prune", "runs/my mix", "--out", "it's", "--views", "cam*", "--note", ""]
    monkeypatch.setattr(sys, "argv", [program, *words])
    assert command_line() == f"{shown} prune 'runs/my mix' --out 'it'\"'\"'s' --views 'cam*' --note ''"
    assert shlex.split(command_line())[len(shown.split()) :] == words


def test_in_the_recipes_folder_their_command_is_the_same(monkeypatch, tmp_path):
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path / "recipes")
    monkeypatch.setattr(sys, "argv", ["moe_n3v.py"])
    assert command_line() == "python recipes/moe_n3v.py"


def test_results_are_written_whole_or_not_at_all(tmp_path):
    write_results(tmp_path / "results.json", {"scene": "a", "experts": {}})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(tmp_path / "results.json", {"scene": math.nan})
    assert json.loads((tmp_path / "results.json").read_text())["scene"] == "a"
