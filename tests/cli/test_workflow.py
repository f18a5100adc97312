"""From a capture to a rendered mixture, command by command."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from moegs.expert import load_expert
from moegs.gaussians.ply import read_ply
from moegs.report import movie
from moegs.route import load_mixture
from moegs_cli._scenes import open_scene


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
        (["--prior", "polynomial", "--views", "cam01,cam00"], "--views: camera cam00 is held out for the test"),
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
    assert "was trained on 4 frames from 0 on, this clip has 2 frames from 0 on" in result.stderr


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


def test_render_decodes_nothing(cli, clip, experts, tmp_path):
    none = tmp_path / "frames"
    cli("render", experts["polynomial"], "--data", clip, "--out", tmp_path / "out", "--count", 1, "--frame-cache", none)
    assert list((tmp_path / "out").rglob("*.png")) and not none.exists()


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
    expert, found = load_expert(experts["polynomial"] / "expert.safetensors"), read_ply(tmp_path / files[0])
    assert (found.scales < expert.at(0.0).scales * 0.999).any()  # rewritten for a wider filter
    cli("export", experts["polynomial"], "--out", tmp_path, "--as-trained", "--force")
    torch.testing.assert_close(read_ply(tmp_path / files[0]).scales, expert.at(0.0).scales)


def test_train_for_viewers_that_have_the_filter_of_3dgs(cli, clip, cache, tmp_path):
    for name, flags, filtered in (("a", (), (0.1, True)), ("b", ("--no-antialias",), (0.3, False))):
        short = ("--prior", "polynomial", "--steps", 1, "--frame-cache", cache, "--quiet")
        cli("train", clip, "--out", tmp_path / name, *short, *flags)
        expert = load_expert(tmp_path / name / "expert.safetensors")
        assert (expert.options.eps2d, expert.options.compensate) == filtered
        assert len(expert.meta["seen_from"]) == 3 and all(len(row) == 7 for row in expert.meta["seen_from"])
    assert "seen_from: 3 cameras" in cli("info", tmp_path / "a").output


def test_export_and_import_the_original_layout(cli, experts, tmp_path):
    cli("export", experts["interpolation"], "--out", tmp_path / "run", "--format", "original")
    out = tmp_path / "again.safetensors"
    assert "interpolation" in cli("import", tmp_path / "run", "--out", out).output
    assert "too thick" in cli("export", out, "--out", tmp_path / "ply", "--frames", 1).stderr
    assert "too thick" not in cli("export", out, "--out", tmp_path / "raw", "--frames", 1, "--as-trained").stderr
    assert len(load_expert(out)) == len(load_expert(experts["interpolation"] / "expert.safetensors"))


@pytest.fixture(scope="module")
def stacked(cli, clip, cache, tmp_path_factory):
    """An expert that never saw one of the three training cameras."""
    out = tmp_path_factory.mktemp("stacked") / "poly"
    cli(
        "train", clip, "--prior", "polynomial", "--leave-out", 1, "--out", out, "--steps", 2, "--frame-cache", cache,
        "--quiet",
    )  # fmt: skip
    return out


def test_stacking_keeps_cameras_from_the_expert(cli, clip, cache, stacked, experts, tmp_path):
    (kept,) = load_expert(stacked / "expert.safetensors").meta["left_out"]
    fixed = ["--steps", 1, "--frame-cache", cache, "--quiet"]
    result = cli("route", clip, "--experts", stacked, stacked, "--router-views", 1, "--out", tmp_path / "a", *fixed)
    assert "warning" not in result.stderr
    result = cli(
        "route", clip, "--experts", stacked, experts["polynomial"], "--router-views", kept, "--out", tmp_path / "b", *fixed
    )  # fmt: skip
    assert f"polynomial-2 may have been fitted to {kept}" in result.stderr
    for run in ("a", "b"):
        with safe_open(tmp_path / run / "checkpoint.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()["moegs"])["run"]["cameras"] == [int(kept.removeprefix("cam"))]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "router: expected 1 to 2"), ("0", "router: expected 1 to 2"), ("-1", "router: expected"),
        ("cam00", "held out for the test"), ("cam01,cam02,cam03", "leaves the experts none"), ("cam9", "expected some of"),
    ],
)  # fmt: skip
def test_stacking_needs_training_cameras_on_both_sides(cli, clip, cache, experts, tmp_path, value, message):
    fixed = ["--out", tmp_path / "x", "--frame-cache", cache]
    assert message in cli("train", clip, "--prior", "polynomial", "--leave-out", value, *fixed, exit_code=2).stderr
    paths = experts.values()
    assert message in cli("route", clip, "--experts", *paths, f"--router-views={value}", *fixed, exit_code=2).stderr


def test_an_expert_of_some_cameras_alone_is_kept_from_the_others(cli, clip, cache, tmp_path):
    fixed = ["--steps", 1, "--frame-cache", cache, "--quiet"]
    cli("train", clip, "--prior", "polynomial", "--views", "cam01,cam02", "--out", tmp_path / "some", *fixed)
    cli("train", clip, "--prior", "polynomial", "--views", "cam01,cam02,cam03", "--out", tmp_path / "all", *fixed)
    assert load_expert(tmp_path / "some" / "expert.safetensors").meta["left_out"] == ["cam03"]
    assert "left_out" not in load_expert(tmp_path / "all" / "expert.safetensors").meta
    said = cli("route", clip, "--experts", tmp_path / "some", "--router-views", "cam03", "--out", tmp_path / "mix", *fixed)
    assert "warning" not in said.stderr


def test_stacking_and_views_exclude_each_other(cli, clip, cache, experts, tmp_path):
    fixed = ["--views", "cam01", "--out", tmp_path / "x", "--frame-cache", cache]
    assert "either" in cli("train", clip, "--prior", "polynomial", "--leave-out", 1, *fixed, exit_code=2).stderr
    assert "either" in cli("route", clip, "--experts", experts["polynomial"], "--router-views", 1, *fixed, exit_code=2).stderr


def test_route_shapes_the_router(cli, clip, cache, experts, tmp_path):
    fixed = ["--experts", *experts.values(), "--steps", 1, "--frame-cache", cache, "--quiet"]
    cli(
        "route", clip, *fixed, "--out", tmp_path / "a", "--temperature", 0.5, "--channels", 2, "--hidden", "5,4",
        "--inputs", "rays,alpha", "--context", 3, "--set", "shared=false", "--set", "initial_weight=1",
    )  # fmt: skip
    config = load_mixture(tmp_path / "a").router.config
    assert (config.temperature, config.channels, config.hidden, config.inputs) == (0.5, 2, (5, 4), ("rays", "alpha"))
    assert (config.context, config.shared, config.initial_weight) == (3, False, 1.0)
    cli("route", clip, *fixed, "--out", tmp_path / "b", "--router", "pixel", "--hidden", "4")
    config = load_mixture(tmp_path / "b").router.config
    assert config.kind == "pixel" and config.hidden == (4,) and "color" in config.inputs


def test_route_merges_experts_under_a_volume_router(cli, clip, cache, experts, tmp_path):
    fixed = ["--experts", *experts.values(), "--frame-cache", cache, "--out", tmp_path, "--router", "volume", "--quiet"]
    result = cli("route", clip, *fixed, "--steps", 2, "--set", "lr_weights=0.1")
    assert "merged scene of polynomial, interpolation" in result.output
    merged = load_expert(tmp_path / "expert.safetensors")
    assert len(merged) == sum(len(load_expert(p / "expert.safetensors")) for p in experts.values())
    assert "PSNR" in cli("eval", tmp_path, clip, "--every", 4, "--frame-cache", cache).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--router", "volume", "--temperature", "2"], "no gates at pixels"),
        (["--hidden", "6,x"], "expected whole numbers"),
        (["--set", "lr=3"], "unknown setting 'lr'"),
        (["--set", "shared=2"], "expected bool"),
        (["--context", "2"], "odd"),
        (["--temperature", "0"], "a number above 0"),
        (["--set", "temperatures=[1]"], "two numbers above 0"),
        (["--set", 'temperatures=["1",null]'], "two numbers above 0"),
        (["--router", "pixel", "--set", "initial_view=0.9"], "no weights on Gaussians"),
        (["--router", "volume", "--set", "temperatures=[1,0.1]"], "no gates at pixels"),
        (["--router", "pixel", "--channels", "3"], "no weights on Gaussians"),
        (["--inputs", "depth"], "'depth'"),
    ],
)
def test_wrong_router_settings_are_wrong_usage(cli, clip, cache, experts, tmp_path, options, message):
    fixed = ["--experts", *experts.values(), "--out", tmp_path / "x", "--frame-cache", cache]
    assert message in cli("route", clip, *fixed, *options, exit_code=2).stderr
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def decided(cli, clip, cache, experts, tmp_path_factory):
    """A mixture whose low temperature leaves few pixels undecided."""
    out = tmp_path_factory.mktemp("decided") / "mix"
    cli(
        "route", clip, "--experts", *experts.values(), "--out", out, "--steps", 6, "--temperature", 0.01,
        "--frame-cache", cache, "--quiet",
    )  # fmt: skip
    return out


def test_eval_holds_sparse_gates_against_exact_ones(cli, clip, cache, decided):
    fixed = ["--every", 2, "--json", "--frame-cache", cache]
    models = json.loads(cli("eval", decided, clip, "--min-gate", 0.0, *fixed).output)["models"]
    assert list(models) == ["mixture", "gates from 0"]
    nothing_left_out = models["gates from 0"]
    assert nothing_left_out["tiles"] == 1.0 and nothing_left_out["largest_error"] < 1e-5
    assert nothing_left_out["psnr"] == pytest.approx(models["mixture"]["psnr"], abs=1e-3)
    sparse = json.loads(cli("eval", decided, clip, "--min-gate", 0.49, *fixed).output)["models"]["gates from 0.49"]
    assert sparse["tiles"] < 1.0 and sparse["largest_error"] > 1e-4
    assert "tiles" in cli("eval", decided, clip, "--min-gate", 0.49, "--frame-cache", cache).output


def test_render_leaves_out_negligible_gates(cli, clip, cache, decided, tmp_path):
    fixed = ["--data", clip, "--frame-cache", cache, "--count", 1, "--what", "mixture,gates"]
    cli("render", decided, *fixed, "--out", tmp_path / "exact")
    cli("render", decided, *fixed, "--out", tmp_path / "sparse", "--min-gate", 0.49)
    exact, sparse = (
        (tmp_path / run / "cam00" / "gates-polynomial" / "00000.png").read_bytes() for run in ("exact", "sparse")
    )
    assert exact != sparse
    assert "0.5" in cli("render", decided, *fixed, "--out", tmp_path / "x", "--min-gate", 0.5, exit_code=2).stderr


def test_one_expert_has_no_gates_to_leave_out(cli, clip, cache, experts, tmp_path):
    one = experts["polynomial"]
    assert "--min-gate" in cli("eval", one, clip, "--min-gate", 0.1, "--frame-cache", cache, exit_code=2).stderr
    fixed = ["--data", clip, "--out", tmp_path / "x", "--frame-cache", cache]
    assert "--min-gate" in cli("render", one, *fixed, "--min-gate", 0.1, exit_code=2).stderr


def test_no_camera_may_be_held_out(clip, cache):
    part = {"scale": 1.0, "start": 0, "frames": None, "test": "none", "frame_cache": cache}
    assert len(open_scene(clip, part).train) == 4 and open_scene(clip, part | {"test": "cam01,cam02"}).test == (1, 2)
