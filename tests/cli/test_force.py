"""What --resume and --force may replace: no result without being asked, and then all of the former one, nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from moegs.report import layers
from moegs.route import load_mixture

MIXTURE = {"manifest.json", "router.safetensors", "experts/polynomial.safetensors", "experts/interpolation.safetensors"}


@pytest.fixture
def finished(mixture, tmp_path) -> Path:
    """A mixture as ``moegs prune`` leaves it: without a checkpoint."""
    shutil.copytree(mixture, tmp_path / "p40", ignore=shutil.ignore_patterns("checkpoint.safetensors", "metrics.jsonl"))
    return tmp_path / "p40"


@pytest.fixture
def on(clip, cache) -> list[object]:
    return ["--data", clip, "--frame-cache", cache, "--quiet"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def models(out: Path, name: str) -> dict[str, dict]:
    return json.loads((out / name).read_text())["models"]


def test_resume_replaces_no_result_without_a_checkpoint(cli, clip, cache, on, experts, finished):
    before = contents(finished)
    for command in (
        ["route", clip, "--experts", *experts.values(), "--frame-cache", cache, "--quiet"],
        ["route", clip, "--experts", *experts.values(), "--router", "volume", "--frame-cache", cache, "--quiet"],
        ["refine", finished, *on],
        ["distill", finished, *on, "--into", "polynomial"],
    ):
        said = cli(*command, "--steps", 1, "--out", finished, "--resume", exit_code=2).stderr
        assert "holds manifest.json and no checkpoint.safetensors for --resume" in said and "add --force" in said
    train = ["train", clip, "--prior", "polynomial", "--frame-cache", cache, "--steps", 1, "--out", finished]
    said = cli(*train, "--resume", exit_code=2).stderr
    assert "name another folder" in said and "--force" not in said  # which it does not have
    assert contents(finished) == before


def test_resume_does_not_replace_what_a_killed_save_left(cli, on, finished):
    (finished / ".mixture").mkdir()
    (finished / "manifest.json").rename(finished / ".mixture" / "manifest.json")
    assert "no checkpoint" in cli("refine", finished, *on, "--out", finished, "--resume", exit_code=2).stderr


def test_resume_goes_on_from_nothing_and_from_what_is_finished(cli, on, finished, tmp_path):
    command = ["refine", finished, *on, "--steps", 2, "--every", 4, "--out", tmp_path / "new", "--resume"]
    cli(*command)
    before = contents(tmp_path / "new")
    cli(*command)
    after = contents(tmp_path / "new")
    assert after.keys() == before.keys() and all(after[name] == before[name] for name in MIXTURE)
    assert "add --force" in cli(*command[:-1], exit_code=2).stderr


def test_a_comparison_that_is_there_stays(cli, on, finished, experts, tmp_path):
    (tmp_path / "out" / "retrained").mkdir(parents=True)
    shutil.copy(experts["polynomial"] / "expert.safetensors", tmp_path / "out" / "retrained")
    command = ["distill", finished, *on, "--into", "polynomial", "--compare", "--out", tmp_path / "out", "--resume"]
    assert "retrained holds expert.safetensors" in cli(*command, exit_code=2).stderr


@pytest.mark.parametrize(
    ("command", "options", "after"),
    [
        ("prune", ["--ratio", 0.5, "--views", 1, "--rounds", 1], "after"),
        ("refine", ["--steps", 1, "--expert-dropout", 1], "refined"),
    ],
)
def test_the_source_is_measured_before_it_is_replaced(cli, on, finished, tmp_path, command, options, after):
    how = [*on, *options, "--every", 4]
    cli(command, finished, *how, "--out", tmp_path / "beside")
    cli(command, finished, *how, "--out", finished, "--force")
    beside, over = (models(folder, f"{command}.json") for folder in (tmp_path / "beside", finished))
    assert over["before"]["megabytes"] == beside["before"]["megabytes"] != over[after]["megabytes"]


def test_force_leaves_nothing_of_the_former_result(cli, on, mixture, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(mixture, out)
    former = ["curve.json", "curve.png", "refine.json", "distill.json", "expert.safetensors", "retrained/metrics.jsonl"]
    (out / "retrained").mkdir()
    for name in [*former, "notes.txt", "experts/mine.txt", "curve.svg"]:
        (out / name).write_bytes(b"former")
    few = ["--ratio", 0.3, "--views", 1, "--rounds", 1, "--every", 4]
    cli("prune", mixture, *on, *few, "--out", out, "--force")
    assert set(contents(out)) == MIXTURE | {"prune.json", "notes.txt", "experts/mine.txt", "curve.svg"}
    assert not (out / "retrained").exists()


def test_force_turns_a_mixture_into_an_expert_and_back(cli, clip, cache, on, mixture, experts, finished):
    (finished / "prune.json").write_text("{}")
    (finished / "experts" / "mine.txt").write_text("mine")
    route = ["route", clip, "--experts", *experts.values(), "--frame-cache", cache, "--quiet", "--steps", 1]
    cli(*route, "--router", "volume", "--out", finished, "--force")
    run = {"checkpoint.safetensors", "metrics.jsonl"}
    assert set(contents(finished)) == {"expert.safetensors", "experts/mine.txt"} | run
    cli(*route, "--out", finished, "--force")
    assert set(contents(finished)) == MIXTURE | {"experts/mine.txt"} | run
    load_mixture(finished)


def test_force_puts_a_student_in_the_place_of_its_teacher(cli, on, finished):
    command = ["distill", finished, *on, "--into", "polynomial", "--steps", 1, "--out", finished, "--force"]
    cli(*command)
    left = {name for name in contents(finished) if not name.startswith("teacher/")}
    assert left == {"expert.safetensors", "distill.json", "checkpoint.safetensors", "metrics.jsonl"}
    assert models(finished, "distill.json")["before"]["megabytes"] > 0


def test_a_manifest_of_something_else_stays(cli, clip, cache, experts, tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    route = ["route", clip, "--experts", *experts.values(), "--frame-cache", cache, "--quiet", "--steps", 1]
    cli(*route, "--router", "volume", "--out", tmp_path, "--force")
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"name": "a web page"}


def test_force_loses_nothing_when_saving_fails(cli, on, finished, monkeypatch):
    (finished / "curve.json").write_text("{}")
    before = contents(finished)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("moegs.route.save_mixture", full)
    few = ["--ratio", 0.3, "--views", 1, "--rounds", 1, "--every", 4]
    assert "No space" in cli("prune", finished, *on, *few, "--out", finished, "--force", exit_code=1).stderr
    assert contents(finished) == before


def test_fewer_pictures_leave_none_of_the_former(cli, clip, cache, experts, tmp_path):
    command = ["render", experts["polynomial"], "--data", clip, "--frame-cache", cache, "--out", tmp_path, "--force"]
    cli(*command)
    folder = next(p.parent for p in tmp_path.rglob("00003.png"))
    (folder / "12.png").write_bytes(b"mine")
    cli(*command, "--count", 2)
    assert sorted(p.name for p in folder.iterdir()) == ["00000.png", "00001.png", "12.png"]


def test_pictures_stay_when_rendering_fails(cli, clip, cache, experts, tmp_path, monkeypatch):
    command = ["render", experts["polynomial"], "--data", clip, "--frame-cache", cache, "--out", tmp_path]
    cli(*command)
    before, drawn = contents(tmp_path), []

    def second_fails(*args: object, **how: object) -> object:
        drawn.append(args)
        if len(drawn) == 2:
            raise OSError("No space left on device")
        return layers(*args, **how)

    monkeypatch.setattr("moegs.report.layers", second_fails)
    cli(*command, "--count", 3, "--force", exit_code=1)
    assert len(drawn) == 2 and contents(tmp_path) == before


def test_new_depth_maps_leave_none_of_other_cameras(cli, clip, cache, mixture, tmp_path):
    for name in ("depth-cam01.png", "depth-mine.png"):
        (tmp_path / name).write_bytes(b"former")
    command = ["fuse", mixture, "--data", clip, "--frame-cache", cache, "--views", 1, "--every", 4, "--count", 2]
    cli(*command, "--out", tmp_path / "fused.safetensors", "--pictures", tmp_path, "--force")
    assert {p.name for p in tmp_path.glob("*.png")} == {"depth-cam00.png", "depth-mine.png"}


@pytest.mark.parametrize("gate", ["2", "-1", "nan", "0.5", "inf"])
def test_a_gate_without_meaning_is_refused_before_anything_is_scored(cli, clip, mixture, gate, monkeypatch):
    monkeypatch.setattr("moegs_cli.evaluate.open_scene", None)
    assert "0 to below 1/2" in cli("eval", mixture, clip, "--min-gate", gate, exit_code=2).stderr


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["prune", "--ratio", 0.3], ["--router-only", "--refit"]),
        (["prune", "--ratio", 0.3], ["--ratios=0.1,0.2", "--curve"]),
        (["prune", "--threshold", 0.1], ["--rounds=8", "--ratio"]),
        (["distill", "--into", "polynomial", "--from-scratch"], ["--adopt=0.2", "--from-scratch"]),
    ],
)
def test_options_without_meaning_are_wrong_usage(cli, mixture, on, tmp_path, command, options):
    given, missing = options
    said = cli(command[0], mixture, *on, *command[1:], given, "--out", tmp_path / "x", exit_code=2).stderr
    assert given.partition("=")[0] in said and missing in said and "Usage: moegs" in said
    assert not (tmp_path / "x").exists()


def test_one_expert_has_no_others_to_score(cli, clip, experts):
    said = cli("eval", experts["polynomial"], clip, "--experts", exit_code=2).stderr
    assert "--experts" in said and "is one expert" in said


@pytest.mark.parametrize("command", ["eval", "render"])
def test_an_unknown_rasteriser_is_wrong_usage(cli, clip, experts, tmp_path, command):
    data = [clip] if command == "eval" else ["--data", clip, "--out", tmp_path / "x"]
    said = cli(command, experts["polynomial"], *data, "--backend", "cuda", exit_code=2).stderr
    assert "--backend" in said and "gsplat" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
@pytest.mark.parametrize("command", ["eval", "render"])
def test_gsplat_without_a_gpu_says_what_else_there_is(cli, clip, experts, tmp_path, command):
    data = [clip] if command == "eval" else ["--data", clip, "--out", tmp_path / "x"]
    said = cli(command, experts["polynomial"], *data, "--backend", "gsplat", exit_code=1).stderr
    assert "needs a CUDA GPU" in said and "native" in said and not (tmp_path / "x").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("device", "said"), [("cuda", "sees none; use the CPU"), ("tpu", "expected cpu, cuda or cuda:N")])
@pytest.mark.parametrize("command", ["train", "select", "fuse"])
def test_training_where_nothing_can_be_says_where_it_can(cli, clip, experts, mixture, tmp_path, command, device, said):
    out = tmp_path / "out"
    asked = {
        "train": [clip, "--prior", "polynomial", "--out", out],
        "select": [clip, "--experts", *experts.values(), "--json", out],
        "fuse": [mixture, "--data", clip, "--out", out],
    }
    told = cli(command, *asked[command], "--device", device, exit_code=1).stderr
    assert told.startswith("moegs: ") and said in told and not out.exists()
