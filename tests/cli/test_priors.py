"""Every prior from the command line: train, describe, export, import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moegs.expert import load_expert
from moegs.gaussians.ply import read_ply

PRIORS = ("polynomial", "interpolation", "hexplane", "embedding", "reformulation")


@pytest.fixture(scope="module", params=PRIORS)
def trained(request, cli, clip, cache, tmp_path_factory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param)
    cli("train", clip, "--prior", request.param, "--out", out, "--steps", 3, "--frame-cache", cache, "--quiet")
    return request.param, out


def test_train_and_describe(cli, trained):
    prior, out = trained
    found = json.loads(cli("info", out, "--json").output)
    assert (found["prior"], found["kind"]) == (prior, "expert")
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3]
    now = load_expert(out / "expert.safetensors").at(0.5)
    assert len(now) == found["gaussians"] and torch.isfinite(now.means).all() and torch.isfinite(now.sh).all()


def test_export_as_ply(cli, trained, tmp_path):
    cli("export", trained[1], "--out", tmp_path, "--frames", 2)
    now = load_expert(trained[1] / "expert.safetensors").at(0.5)
    torch.testing.assert_close(read_ply(tmp_path / "frame_00001.ply").means, now.means)


def test_export_and_import_the_original_layout(cli, trained, tmp_path):
    prior, out = trained
    said = cli("export", out, "--out", tmp_path / "run", "--format", "original").output
    assert ("another low-pass filter" in said) == (prior != "interpolation")  # Ex4DGS compensates too
    assert ("another opacity_window" in said) == (prior == "interpolation")
    assert prior in cli("import", tmp_path / "run", "--out", tmp_path / "again.safetensors").output
    before, after = load_expert(out / "expert.safetensors"), load_expert(tmp_path / "again.safetensors")
    assert after.prior.name == prior
    for t in (0.0, 0.4, 0.75):
        torch.testing.assert_close(after.at(t).means, before.at(t).means, atol=1e-4, rtol=1e-4)
    assert after.options == before.options
