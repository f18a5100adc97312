"""From a capture to a rendered mixture, command by command."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from moegs.expert import load_expert
from moegs.gaussians.ply import read_ply
from moegs.report import movie


def test_train_leaves_an_expert_and_its_log(experts):
    expert = load_expert(experts["polynomial"] / "expert.safetensors")
    assert expert.meta["steps"] == 12 and len(expert) > 0
    assert {"checkpoint.safetensors", "metrics.jsonl"} <= {p.name for p in experts["polynomial"].iterdir()}


def test_train_takes_its_options(cli, clip, cache, tmp_path):
    cli(
        "train", clip, "--prior", "polynomial", "--out", tmp_path, "--steps", 2, "--seed", 5, "--max-gaussians", 900,
        "--set", "sh_degree=1", "--set", "lr_motion=1e-4", "--views", "cam01,cam02", "--frame-cache", cache, "--quiet",
    )  # fmt: skip
    expert = load_expert(tmp_path / "expert.safetensors")
    assert (expert.prior.sh_degree, expert.prior.lr_motion, expert.meta["seed"]) == (1, 1e-4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prior", "nope"], "expected one of"),
        (["--prior", "polynomial", "--budget", "huge"], "expected one of small, medium, full"),
        (["--prior", "polynomial", "--set", "sh_degree"], "expected KEY=VALUE"),
        (["--prior", "polynomial", "--set", "colour=3"], "unknown option 'colour'"),
        (["--prior", "polynomial", "--set", "sh_degree=two"], "expected int"),
        (["--prior", "polynomial", "--views", "cam99"], "expected some of cam00"),
        (["--prior", "polynomial", "--scale", "2"], "scale"),
    ],
)
def test_wrong_options_of_train_are_wrong_usage(cli, clip, cache, tmp_path, options, message):
    result = cli("train", clip, "--out", tmp_path / "x", "--frame-cache", cache, *options, exit_code=2)
    assert message in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_run_is_only_touched_by_resume(cli, clip, cache, experts):
    arguments = ["train", clip, "--prior", "polynomial", "--out", experts["polynomial"], "--steps", 12,
                 "--frame-cache", cache, "--checkpoint-every", 5, "--quiet"]  # fmt: skip
    before = (experts["polynomial"] / "expert.safetensors").read_bytes()
    assert "add --resume" in cli(*arguments, exit_code=2).stderr
    cli(*arguments, "--resume")
    assert (experts["polynomial"] / "expert.safetensors").read_bytes() == before
    assert "other" in cli(*arguments, "--resume", "--seed", 3, exit_code=2).stderr


def test_info_describes_experts_and_mixtures(cli, experts, mixture):
    found = json.loads(cli("info", experts["interpolation"], "--json").output)
    assert found["kind"] == "expert" and found["prior"] == "interpolation" and found["gaussians"] > 0
    found = json.loads(cli("info", mixture, "--json").output)
    assert list(found["experts"]) == ["polynomial", "interpolation"]
    assert found["gaussians"] == sum(e["gaussians"] for e in found["experts"].values())
    assert "volume-pixel" in cli("info", mixture).output


def test_info_notices_a_changed_file(cli, mixture, tmp_path):
    copy = shutil.copytree(mixture, tmp_path / "mix")
    with open(copy / "router.safetensors", "ab") as file:
        file.write(b"x")
    assert "sha256" in cli("info", copy, exit_code=1).stderr


def test_eval_scores_mixture_experts_and_yardsticks(cli, clip, cache, mixture, experts):
    found = json.loads(
        cli("eval", mixture, clip, "--experts", "--every", 2, "--json", "--frame-cache", cache).output
    )  # fmt: skip
    assert list(found["models"]) == [
        "polynomial", "interpolation", "uniform average", "per-pixel oracle", "mixture"
    ]  # fmt: skip
    models = found["models"]
    assert models["per-pixel oracle"]["psnr"] >= max(m["psnr"] for m in models.values()) - 1e-9
    assert models["mixture"]["megabytes"] > models["polynomial"]["megabytes"] > 0
    assert models["mixture"]["scores"]["lpips"] == "not computed"
    assert "zero padding" in found["protocol"]
    alone = cli("eval", experts["polynomial"], clip, "--every", 4, "--camera", "cam01", "--frame-cache", cache).output
    assert "PSNR" in alone and "polynomial" in alone


def test_eval_warns_of_another_clip(cli, clip, cache, experts):
    result = cli("eval", experts["polynomial"], clip, "--frames", 2, "--frame-cache", cache)
    assert "trained on 4 frames, this clip has 2" in result.stderr


def test_render_writes_every_kind_of_picture(cli, clip, cache, mixture, tmp_path):
    cli(
        "render", mixture, "--data", clip, "--out", tmp_path, "--what", "mixture,experts,gates,depth",
        "--frame-cache", cache,
    )  # fmt: skip
    folders = {p.name for p in (tmp_path / "cam00").iterdir()}
    assert folders == {
        "mixture", "polynomial", "interpolation", "gates-polynomial", "gates-interpolation",
        "depth", "depth-polynomial", "depth-interpolation",
    }  # fmt: skip
    pictures = sorted((tmp_path / "cam00" / "mixture").iterdir())
    assert [p.name for p in pictures] == [f"{i:05d}.png" for i in range(4)]
    with Image.open(pictures[0]) as image:
        assert image.size == (48, 32)


def test_render_walks_training_cameras_and_the_spiral(cli, clip, cache, experts, tmp_path):
    fixed = ["--data", clip, "--out", tmp_path, "--frame-cache", cache, "--count", 3]
    cli("render", experts["polynomial"], *fixed, "--camera", "train")
    assert {p.name for p in tmp_path.iterdir()} == {"cam01", "cam02", "cam03"}
    cli("render", experts["polynomial"], *fixed, "--camera", "spiral", "--format", "mp4", "--what", "experts,depth")
    assert {p.name for p in (tmp_path / "spiral").iterdir()} == {"polynomial.mp4", "depth.mp4"}
    with movie.av.open(str(tmp_path / "spiral" / "depth.mp4")) as container:
        assert len(list(container.decode(video=0))) == 3


def test_render_refuses_what_a_model_does_not_have(cli, clip, cache, experts, tmp_path):
    fixed = ["--data", clip, "--out", tmp_path / "x", "--frame-cache", cache]
    assert "'gates'" in cli("render", experts["polynomial"], *fixed, "--what", "gates", exit_code=2).stderr
    assert "cam99" in cli("render", experts["polynomial"], *fixed, "--camera", "cam99", exit_code=2).stderr
    assert not (tmp_path / "x").exists()


def test_route_numbers_experts_of_one_prior(cli, clip, cache, experts, tmp_path):
    one = experts["polynomial"] / "expert.safetensors"
    cli("route", clip, "--experts", one, one, "--out", tmp_path, "--steps", 1, "--frame-cache", cache, "--quiet")
    assert list(json.loads(cli("info", tmp_path, "--json").output)["experts"]) == ["polynomial", "polynomial-2"]


def test_export_writes_one_ply_a_frame(cli, experts, tmp_path):
    cli("export", experts["polynomial"], "--out", tmp_path)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == [f"frame_{i:05d}.ply" for i in range(4)]
    read_ply(tmp_path / files[0])


def test_export_and_import_the_original_layout(cli, experts, tmp_path):
    cli("export", experts["interpolation"], "--out", tmp_path / "run", "--format", "original")
    out = tmp_path / "again.safetensors"
    assert "interpolation" in cli("import", tmp_path / "run", "--out", out).output
    assert len(load_expert(out)) == len(load_expert(experts["interpolation"] / "expert.safetensors"))
