"""The main recipe, on a tiny clip and for a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from moegs.data.synth import synthesize
from moegs.expert import load_expert

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "moe_n3v.py"


def _run(*args: object) -> str:
    # the recipe has to find moegs as its user would: from the environment, not from the folder it is started in
    roots = os.pathsep.join([str(RECIPE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": roots, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, str(RECIPE), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("captures") / "room"
    return synthesize(out, cameras=4, frames=4, size=(48, 32), progress=False)


@pytest.fixture(scope="module")
def finished(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("run")
    return out, _run("--data", clip, "--out", out, "--steps", 8)


def test_results_follow_the_contract(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert {"scene", "protocol", "command", "versions", "experts", "mixture", "backend"} <= set(results)
    assert results["scene"] == "room" and results["backend"] in ("native", "reference")
    assert "zero padding" in results["protocol"] and "cam00" in results["protocol"]
    assert results["command"].startswith("moe_n3v.py --data")
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
    _run("--data", clip, "--out", out, "--steps", 8)
    after = [(p.stat().st_mtime_ns, p.read_bytes()) for p in (*experts, out / "mixture" / "router.safetensors")]
    assert len(experts) == 2 and after == before
    again = json.loads((out / "results.json").read_text())
    for name, row in results["experts"].items():
        assert again["experts"][name]["psnr"] == row["psnr"]
        assert again["experts"][name]["train_seconds"] == row["train_seconds"]


def test_the_same_prior_twice_differs_by_its_seed(clip, tmp_path):
    _run("--data", clip, "--out", tmp_path, "--steps", 4, "--experts", "polynomial", "polynomial", "--seed", 5)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["experts"]) == ["polynomial", "polynomial-2"]
    runs = [p / "expert.safetensors" for p in sorted((tmp_path / "experts").iterdir())]
    assert [load_expert(p).meta["seed"] for p in runs] == [5, 6]


def test_it_stays_short():
    assert len(RECIPE.read_text().splitlines()) < 120
