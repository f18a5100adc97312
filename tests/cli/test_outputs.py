"""What is there already is replaced only when that is asked for, and a model is not used on another clip unnoticed."""

from __future__ import annotations

import os
import shutil

import pytest

from moegs.data.synth import synthesize
from moegs.expert import load_expert


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A clip of the same length with other cameras."""
    out = tmp_path_factory.mktemp("other") / "hall"
    return synthesize(out, cameras=3, frames=4, size=(48, 32), seed=7, progress=False)


def refused(cli, *command):
    """Run a command twice and then with --force; the first two leave the same bytes."""
    cli(*command)
    error = cli(*command, exit_code=2).stderr
    assert "--force" in error and "moegs: --" in error
    cli(*command, "--force")


def test_import_export_and_render_replace_nothing_unasked(cli, clip, cache, experts, tmp_path):
    one, file = experts["interpolation"], tmp_path / "a.safetensors"
    refused(cli, "export", one, "--out", tmp_path / "ply")
    refused(cli, "export", one, "--out", tmp_path / "run", "--format", "original")
    refused(cli, "import", tmp_path / "run", "--out", file)
    shown = ["--data", clip, "--frame-cache", cache, "--count", 1, "--out", tmp_path / "pictures"]
    refused(cli, "render", one, *shown)
    refused(cli, "render", one, *shown, "--format", "mp4")
    cli("render", one, *shown, "--what", "depth")  # beside the others, not over them


def test_mixture_tools_replace_nothing_unasked(cli, clip, cache, mixture, experts, tmp_path):
    data = ["--data", clip, "--frame-cache", cache]
    refused(cli, "fuse", mixture, *data, "--views", 1, "--every", 4, "--out", tmp_path / "fused.safetensors")
    few = ["--ratio", 0.3, "--views", 1, "--rounds", 1, "--every", 4, "--quiet"]
    refused(cli, "prune", mixture, *data, *few, "--out", tmp_path / "pruned")
    ranked = ["--steps", 1, "--validation", 1, "--sizes", 2, "--every", 4, "--quiet", "--json", tmp_path / "ranking.json"]
    refused(cli, "select", clip, "--experts", *experts.values(), "--frame-cache", cache, *ranked)


def test_a_refused_command_leaves_the_file(cli, clip, cache, mixture, tmp_path):
    file = tmp_path / "fused.safetensors"
    file.write_bytes(b"precious")
    error = cli("fuse", mixture, "--data", clip, "--frame-cache", cache, "--out", file, exit_code=2).stderr
    assert "fused.safetensors exists already" in error and file.read_bytes() == b"precious"


def test_commands_warn_of_another_clip(cli, clip, other, cache, mixture, experts, tmp_path):
    one, on = experts["polynomial"], ["--data", other, "--frame-cache", cache]
    said = "was trained on 'clip', this is 'hall' with other cameras"
    few = ["--views", 1, "--every", 4]
    assert said in cli("render", one, *on, "--count", 1, "--out", tmp_path / "one").stderr
    assert said in cli("render", mixture, *on, "--count", 1, "--out", tmp_path / "mix").stderr
    assert said in cli("eval", one, other, "--every", 4, "--frame-cache", cache).stderr
    assert said in cli("fuse", mixture, *on, *few, "--out", tmp_path / "f.safetensors").stderr
    assert said in cli("prune", mixture, *on, *few, "--ratio", 0.1, "--rounds", 1, "--out", tmp_path / "p").stderr
    half = ["--data", clip, "--frame-cache", cache, "--frames", 2]
    result = cli("render", one, *half, "--count", 1, "--out", tmp_path / "two")
    assert "was trained on 4 frames from 0 on, this clip has 2 frames" in result.stderr


def test_a_renamed_clip_is_the_same_clip(cli, clip, cache, experts, tmp_path):
    shutil.copytree(clip, tmp_path / "renamed")
    assert load_expert(experts["polynomial"] / "expert.safetensors").meta["scene"] == "clip"
    result = cli("eval", experts["polynomial"], tmp_path / "renamed", "--every", 4, "--frame-cache", cache)
    assert "warning" not in result.stderr


def test_the_cache_of_frames_is_told_and_cleared(cli, clip, experts, tmp_path):
    kept = tmp_path / "frames"
    (tmp_path / "frames").mkdir()
    (kept / "mine.npy").write_bytes(b"mine")
    cli("eval", experts["polynomial"], clip, "--every", 4, "--frame-cache", kept)
    assert f"{kept}: 4 files" in cli("data", "cache", "--frame-cache", kept).output
    assert "4 files" in cli("data", "cache", "--frame-cache", kept, "--clear").output
    assert [p.name for p in kept.iterdir()] == ["mine.npy"]
    assert "0 files" in cli("data", "cache", "--frame-cache", kept).output


def test_what_cannot_be_written_is_said_before_the_work(cli, clip, experts, mixture, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file" / "run"
    out = ("--data", clip, "--out", below)
    commands = [("fuse", mixture, *out), ("prune", mixture, "--ratio", 0.1, *out), ("refine", mixture, *out)]
    for command in [*commands, ("route", clip, "--experts", *experts.values(), "--out", below)]:
        assert f"{below} cannot be made, {tmp_path / 'file'} is a file" in cli(*command, exit_code=2).stderr
    allowed = os.access
    monkeypatch.setattr("os.access", lambda place, mode: mode != os.W_OK and allowed(place, mode))
    ranked = ("select", clip, "--experts", *experts.values(), "--json", tmp_path / "ranks.json")
    assert f"{tmp_path} is not yours to write to" in cli(*ranked, exit_code=2).stderr
