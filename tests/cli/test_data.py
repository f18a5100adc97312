from __future__ import annotations

import json
import shutil

import numpy as np


def test_synth_makes_a_capture_that_check_likes(cli, tmp_path):
    out = tmp_path / "clip"
    text = cli("data", "synth", out, "--cameras", 3, "--frames", 2, "--size", "32x24").output
    assert text.strip().endswith("3 cameras, 2 frames of 32x24")
    assert {"poses_bounds.npy", "cam00.mp4", "cam02.mp4", "colmap_0"} <= {p.name for p in out.iterdir()}
    assert "0 errors" in cli("data", "check", out).output


def test_synth_refuses_a_size_it_cannot_read_and_a_folder_in_use(cli, tmp_path):
    assert "expected WIDTHxHEIGHT" in cli("data", "synth", tmp_path / "a", "--size", "big", exit_code=2).output
    (tmp_path / "kept").write_text("mine")
    assert "holds something already" in cli("data", "synth", tmp_path, exit_code=2).output
    assert (tmp_path / "kept").read_text() == "mine"


def test_check_names_file_and_field_and_fails(cli, clip, tmp_path):
    broken = shutil.copytree(clip, tmp_path / "broken")
    poses = np.load(broken / "poses_bounds.npy")
    poses[1, 3] = np.nan
    np.save(broken / "poses_bounds.npy", poses)
    (broken / "cam03.mp4").unlink()
    assert "error" in cli("data", "check", broken, exit_code=1).output
    found = json.loads(cli("data", "check", broken, "--json", exit_code=1).output)
    errors = [f for f in found if f["severity"] == "error"]
    assert errors and all(f["file"] and f["field"] and f["message"] for f in errors)
    assert any("poses_bounds.npy" in f["file"] for f in errors)
