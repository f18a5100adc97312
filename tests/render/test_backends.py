"""Devices by name: what can be trained on here, and what is said of the rest."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from moegs.errors import BackendError
from moegs.render import usable_device


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
