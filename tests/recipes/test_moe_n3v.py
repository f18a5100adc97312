"""The main recipe, on a tiny clip and for a few steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from moegs.expert import load_expert
from moegs.route import Mixture, VolumePixelRouter, load_mixture, mixture_key, save_mixture
from tests.recipes.support import RECIPES, attempt, run

RECIPE = "moe_n3v.py"


@pytest.fixture(scope="module")
def finished(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("run")
    return out, run(RECIPE, "--data", clip, "--out", out, "--steps", 8)


def test_results_follow_the_contract(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert {"scene", "protocol", "command", "versions", "experts", "mixture", "backend"} <= set(results)
    assert results["scene"] == "room" and results["backend"] in ("native", "reference")
    assert "zero padding" in results["protocol"] and "cam00" in results["protocol"]
    assert results["command"].startswith("python recipes/moe_n3v.py --data")
    assert list(results["experts"]) == ["polynomial", "interpolation"]
    columns = {"psnr", "ssim", "gaussians", "megabytes", "ms_per_frame", "train_seconds"}
    for row in (*results["experts"].values(), results["mixture"]):
        assert columns <= set(row) and all(row[c] > 0 for c in columns)
    assert results["mixture"]["gaussians"] == sum(e["gaussians"] for e in results["experts"].values())
    assert set(results["yardsticks"]) == {"uniform average", "per-pixel oracle"}


def test_the_table_and_the_pictures_are_there(finished):
    out, printed = finished
    for word in ("polynomial", "interpolation", "mixture", "per-pixel oracle", "PSNR", "rasteriser: "):
        assert word in printed
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 4 * 48 and sheet.height > 3 * 32


def test_again_skips_what_is_finished(finished, clip):
    out, _ = finished
    experts = sorted(out.glob("experts/*/expert.safetensors"))
    before = [(p.stat().st_mtime_ns, p.read_bytes()) for p in (*experts, out / "mixture" / "router.safetensors")]
    results = json.loads((out / "results.json").read_text())
    run(RECIPE, "--data", clip, "--out", out, "--steps", 8)
    after = [(p.stat().st_mtime_ns, p.read_bytes()) for p in (*experts, out / "mixture" / "router.safetensors")]
    assert len(experts) == 2 and after == before
    again = json.loads((out / "results.json").read_text())
    for name, row in results["experts"].items():
        assert again["experts"][name]["psnr"] == row["psnr"]
        assert again["experts"][name]["train_seconds"] == row["train_seconds"]


def test_a_mixture_that_is_not_the_finished_run_s_is_written_anew(finished, clip, tmp_path):
    out = shutil.copytree(finished[0], tmp_path / "again")
    mine = load_mixture(out / "mixture")
    other = Mixture(dict(reversed(mine.experts.items())), VolumePixelRouter(mine.router.counts[::-1], mine.router.config))
    save_mixture(other, out / "mixture", {"scene": "room", "train_seconds": 1.0})
    run(RECIPE, "--data", clip, "--out", out, "--steps", 8)
    assert mixture_key(load_mixture(out / "mixture")) == mixture_key(mine)


def test_the_same_prior_twice_differs_by_its_seed(clip, tmp_path):
    run(RECIPE, "--data", clip, "--out", tmp_path, "--steps", 4, "--experts", "polynomial", "polynomial", "--seed", 5)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["experts"]) == ["polynomial", "polynomial-2"]
    runs = [p / "expert.safetensors" for p in sorted((tmp_path / "experts").iterdir())]
    assert [load_expert(p).meta["seed"] for p in runs] == [5, 6]


def test_an_error_is_one_line(tmp_path):
    done = attempt(RECIPE, "--data", tmp_path / "nothing", "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("moe_n3v: ") and "no such folder" in done.stderr and done.stderr.count("\n") == 1


def test_it_stays_short():
    assert len((RECIPES / RECIPE).read_text().splitlines()) < 120
