"""Which rasteriser runs, and devices by name: what can be trained on here, and what is said of the rest."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from moegs.errors import BackendError
from moegs.render import rasterize, usable_device
from tests.render.scenes import camera, random_gaussians


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "gsplat" else found(name))


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_what_is_there_is_usable(two_gpus, name):
    assert usable_device(name) == name and torch.device(name)


@pytest.mark.parametrize("name", ["", "CUDA", "cuda:", "cuda:01", "cuda:-1", "cuda:٠", "tpu", "cpu:0"])
def test_other_names_are_refused(two_gpus, name):
    with pytest.raises(BackendError, match="expected cpu, cuda or cuda:N"):
        usable_device(name)


def test_a_gpu_that_is_not_there_is_refused(two_gpus, monkeypatch):
    with pytest.raises(BackendError, match="the last of the GPUs that torch sees is cuda:1"):
        usable_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="torch sees none; use the CPU"):
        usable_device("cuda")


def test_a_gpu_without_gsplat_is_refused(two_gpus, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="gsplat is not installed"):
        usable_device("cuda:0")


def test_learnt_intrinsics_are_drawn_by_the_reference():
    seen = camera()
    learnt = replace(seen, K=seen.K.clone().requires_grad_())
    render = rasterize(random_gaussians(5), learnt)
    render.color.sum().backward()
    assert render.backend == "reference" and learnt.K.grad is not None and learnt.K.grad.abs().sum() > 0
    with torch.no_grad():
        assert rasterize(random_gaussians(5), learnt).backend == rasterize(random_gaussians(5), seen).backend
