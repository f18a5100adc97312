"""The comparison of priors, on a tiny clip and for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from moegs.expert import load_expert
from tests.recipes.support import RECIPES, run

RECIPE = "five_experts.py"
PRIORS = ["polynomial", "interpolation", "hexplane", "embedding", "reformulation"]


@pytest.fixture(scope="module")
def finished(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("run")
    return out, run(RECIPE, "--data", clip, "--out", out, "--steps", 3)


def _results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def test_every_prior_is_measured(finished):
    results = _results(finished[0])
    assert list(results["experts"]) == PRIORS
    for row in results["experts"].values():
        assert all(row[c] > 0 for c in ("psnr", "ssim", "gaussians", "megabytes", "ms_per_frame", "train_seconds"))
    assert results["scene"] == "room" and "cam00" in results["protocol"]
    assert results["command"].startswith("python recipes/five_experts.py --data")


def test_regions_and_frames_name_their_winners(finished):
    results = _results(finished[0])
    assert results["regions"]["all"]["share"] == 1 and "static" in results["regions"]
    for region in results["regions"].values():
        assert set(region["psnr"]) == set(PRIORS) and sum(region["wins"].values()) == pytest.approx(1)
        assert region["best"] == max(region["psnr"], key=region["psnr"].get)
    frames = results["frames"]
    assert len(frames["best"]) == 4 == sum(frames["wins"].values())
    for name, row in results["experts"].items():
        assert sum(frames["psnr"][name]) / 4 == pytest.approx(row["psnr"])


def test_pictures_and_table_are_there(finished):
    out, printed = finished
    pytest.importorskip("matplotlib")
    for name in ("win_map.png", "comparison.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 2 * 48
    for word in (*PRIORS, "PSNR", "static", "frames won", "comparison.png"):
        assert word in printed


def test_again_skips_what_is_finished_even_without_matplotlib(finished, clip, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('not here')")
    out, _ = finished
    before, kept = _results(out), {p: p.stat().st_mtime_ns for p in out.glob("experts/*/expert.safetensors")}
    printed = run(RECIPE, "--data", clip, "--out", out, "--steps", 3, first=str(tmp_path))
    assert "pip install 'moegs[report]'" in printed
    assert kept == {p: p.stat().st_mtime_ns for p in kept} and len(kept) == 5
    assert _results(out)["regions"] == before["regions"] and _results(out)["frames"] == before["frames"]


def test_it_stays_short():
    assert len((RECIPES / RECIPE).read_text().splitlines()) < 120


def test_it_takes_part_of_a_capture(clip, tmp_path):
    part = ("--scale", 0.5, "--start", 1, "--frames", 2, "--test", "cam02", "--frame-cache", tmp_path / "frames")
    run(RECIPE, "--data", clip, "--out", tmp_path / "out", "--steps", 2, "--priors", "polynomial", *part)
    results = _results(tmp_path / "out")
    assert "cam02" in results["protocol"] and len(next(iter(results["frames"]["psnr"].values()))) == 2
    assert list((tmp_path / "frames").iterdir()) and not (tmp_path / "out" / "frames").exists()
    assert load_expert(tmp_path / "out" / "experts" / "polynomial" / "expert.safetensors").meta["n_frames"] == 2
