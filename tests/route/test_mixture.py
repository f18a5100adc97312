"""Mixtures: one pass equals separate renders, and a folder that notices damage."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from moegs.deform import get
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert, load_expert, render_expert, save_expert
from moegs.gaussians import PointCloud
from moegs.render import RasterOptions
from moegs.route import (
    Mixture,
    VolumePixelRouter,
    blend,
    load_mixture,
    read_manifest,
    render_mixture,
    save_mixture,
)
from tests.render.scenes import camera


def make_expert(name: str, n: int, seed: int, **fields) -> Expert:
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, 3, generator=g) * torch.tensor([3.0, 2.0, 2.0]) + torch.tensor([-1.5, -1.0, 1.0])
    prior = replace(get(name).for_clip(8), **fields)
    return Expert(prior, prior.init(PointCloud(points, torch.rand(n, 3, generator=g), None), g))


def make_mixture() -> Mixture:
    experts = {
        "a": make_expert("polynomial", 20, 0),
        "b": replace(make_expert("interpolation", 30, 1), options=RasterOptions(eps2d=0.1, compensate=True),
                     background=(0.2, 0.3, 0.4)),
        "c": make_expert("polynomial", 15, 2, color="features"),
    }  # fmt: skip
    router = VolumePixelRouter([len(e) for e in experts.values()])
    with torch.no_grad():
        router.base.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    return Mixture(experts, router)


@torch.no_grad()
def test_one_pass_equals_separate_renders():
    mixture, cam = make_mixture(), camera()
    whole = render_mixture(mixture, cam, 0.4, backend="reference")
    for k, expert in enumerate(mixture.experts.values()):
        alone = render_expert(expert, cam, 0.4, backend="reference")
        torch.testing.assert_close(whole.images[k], alone.color, atol=1e-6, rtol=0)
        torch.testing.assert_close(whole.depths[k], alone.depth, atol=1e-5, rtol=0)
        torch.testing.assert_close(whole.alphas[k], alone.alpha, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.color, blend(whole.images, whole.gates))


@torch.no_grad()
def test_folder_round_trip(tmp_path):
    mixture = make_mixture()
    save_mixture(mixture, tmp_path / "m", meta={"note": 1})
    again = load_mixture(tmp_path / "m")
    assert list(again.experts) == ["a", "b", "c"] and read_manifest(tmp_path / "m")["meta"] == {"note": 1}
    one, two = (render_mixture(m, camera(), 0.4, backend="reference").color for m in (mixture, again))
    assert torch.equal(one, two)
    assert again.experts["b"].options == RasterOptions(eps2d=0.1, compensate=True)


def test_damage_is_noticed(tmp_path):
    folder = tmp_path / "m"
    save_mixture(make_mixture(), folder)
    path = folder / "experts" / "a.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FormatError, match="sha256"):
        load_mixture(folder)
    path.write_bytes(whole[:100])
    with pytest.raises(FormatError, match="a.safetensors"):
        load_mixture(folder, verify=False)
    path.unlink()
    with pytest.raises(FormatError, match="missing"):
        load_mixture(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match="manifest.json"):
        load_mixture(folder)


def test_experts_survive_their_file_and_strangers_are_refused(tmp_path):
    expert = make_expert("interpolation", 10, 0)
    save_expert(expert, tmp_path / "e.safetensors")
    again = load_expert(tmp_path / "e.safetensors")
    assert again.prior == expert.prior and all(torch.equal(again.params[k], v) for k, v in expert.params.items())
    assert all(v.data_ptr() % 64 == 0 for v in again.params.values())
    with pytest.raises(FormatError, match="no such file"):
        load_expert(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match="expected a moegs-expert"):
        load_expert(tmp_path / "other.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "new.safetensors",
              metadata={"moegs": json.dumps({"format": "moegs-expert", "version": 99})})  # fmt: skip
    with pytest.raises(FormatError, match="update moegs"):
        load_expert(tmp_path / "new.safetensors")


def test_a_router_for_other_experts_is_refused():
    mixture = make_mixture()
    with pytest.raises(ConfigError, match="router was made for"):
        Mixture({"a": mixture.experts["a"]}, mixture.router)
