"""Checkpoints that were damaged or forged: one clear error that says which file, and to delete it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moegs.deform import get
from moegs.errors import ConfigError, FormatError
from moegs.train import FitConfig, RouteConfig, fit_expert, fit_router
from tests.train.scenes import small_scene

CONFIG = FitConfig(steps=3, seed=4)


def fit(folder: Path, resume: bool) -> dict[str, torch.Tensor]:
    prior = get("polynomial").for_clip(4)
    return fit_expert(small_scene(), prior, CONFIG, out=folder, resume=resume, progress=False).params


def route(folder: Path, resume: bool) -> dict[str, torch.Tensor]:
    priors, short = [get(n).for_clip(4) for n in ("polynomial", "hexplane")], replace(CONFIG, steps=1)
    experts = {p.name: fit_expert(small_scene(), p, short, progress=False) for p in priors}
    mixture = fit_router(small_scene(), experts, RouteConfig(steps=3), out=folder, resume=resume, progress=False)
    return dict(mixture.router.state_dict())


@pytest.fixture(scope="module", params=[fit, route])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """How to train, the tensors and the header of its checkpoint, and what it ends in."""
    folder = tmp_path_factory.mktemp("run")
    result = request.param(folder, resume=False)
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
        return request.param, tensors, json.loads(file.metadata()["moegs"]), result


def forge(folder: Path, tensors: dict[str, torch.Tensor], header: Any) -> None:
    save_file(tensors, folder / "checkpoint.safetensors", metadata={"moegs": json.dumps(header)})


def test_the_same_tensors_are_taken_over(run, tmp_path):
    train, tensors, header, result = run
    forge(tmp_path, tensors, header)
    assert all(torch.equal(value, result[name]) for name, value in train(tmp_path, resume=True).items())


@pytest.mark.parametrize("change", ["lost", "rows", "flat", "type"])
def test_no_tensor_can_be_lost_or_changed(run, change, tmp_path):
    train, tensors, header, _ = run
    for name, value in tensors.items():
        changed = {"rows": torch.cat([value.reshape(-1, *value.shape[1:])] * 2), "flat": value.reshape(-1, 1, 1, 1, 1, 1),
                   "type": value.to(torch.float16)}  # fmt: skip
        others = {k: v for k, v in tensors.items() if k != name}
        forge(tmp_path, others if change == "lost" else others | {name: changed[change]}, header)
        if change == "rows" and not value.numel():
            continue
        with pytest.raises(FormatError, match=r"checkpoint.safetensors: does not fit this run .*delete it to start"):
            train(tmp_path, resume=True)


@pytest.mark.parametrize("header", [[], 3, {"step": "3"}, {"step": -1}, {"step": True}, {"run": None}, {"format": "x"}])
def test_a_header_without_meaning_is_refused(run, header, tmp_path):
    train, tensors, whole, _ = run
    forge(tmp_path, tensors, header if not isinstance(header, dict) else whole | header)
    with pytest.raises(FormatError, match=r"checkpoint\.safetensors: (metadata field '|expected moegs-training)"):
        train(tmp_path, resume=True)


def test_the_setting_that_differs_is_named(tmp_path):
    """Alone, not in the whole of what it is part of."""
    prior = get("polynomial").for_clip(4)
    fit_expert(small_scene(), prior, CONFIG, out=tmp_path, progress=False)
    other = replace(CONFIG, densify=replace(CONFIG.densify, max_gaussians=77))
    with pytest.raises(ConfigError, match=r"with fit\.densify\.max_gaussians = \d+, this run asks for 77; use the same"):
        fit_expert(small_scene(), prior, other, out=tmp_path, resume=True, progress=False)
