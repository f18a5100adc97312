"""Mixtures: one pass equals separate renders, and a folder that notices damage."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moegs.deform import get, names
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert, load_expert, render_expert, save_expert
from moegs.gaussians import PointCloud
from moegs.render import RasterOptions
from moegs.route import (
    Mixture,
    RouterConfig,
    VolumePixelRouter,
    blend,
    load_mixture,
    read_manifest,
    render_experts,
    render_mixture,
    save_mixture,
)
from moegs.route.mixture import load_router
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


def test_printed_it_is_a_line():
    mixture = make_mixture()
    assert repr(mixture) == "Mixture(a: 20 Gaussians, b: 30 Gaussians, c: 15 Gaussians; volume-pixel router)"
    assert repr(mixture.experts["a"]) == "Expert(polynomial, 20 Gaussians)"


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
def test_in_double_precision_it_is_the_same_mixture():
    mixture, cam = make_mixture(), camera()
    double = mixture.to(torch.float64)
    assert double.router.extent.dtype == torch.float64 and mixture.router.extent.dtype == torch.float32
    image = render_mixture(double, cam, 0.4).color
    assert image.dtype == torch.float64
    torch.testing.assert_close(image.float(), render_mixture(mixture, cam, 0.4, backend="reference").color, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_one_pass_over_every_prior_equals_separate_renders(backend):
    experts = {name: make_expert(name, 90, seed) for seed, name in enumerate(names())}
    as_imported = make_expert("reformulation", 90, 9, seen_at="rest")
    experts["4dgs"] = replace(as_imported, options=RasterOptions(near=0.2, footprint="4dgs"))
    cam = camera(64, 48)
    whole = render_experts(list(experts.values()), cam, 0.4, backend=backend)
    slack = 0.0 if backend == "native" else 1e-5
    for k, expert in enumerate(experts.values()):
        alone = render_expert(expert, cam, 0.4, backend=backend)
        for image, own in ((whole.color[k], alone.color), (whole.depth[k], alone.depth), (whole.alpha[k], alone.alpha)):
            torch.testing.assert_close(image, own, atol=slack, rtol=0)


@pytest.mark.parametrize("kind", ["volume-pixel", "volume", "pixel", "colours", "wide"])
@pytest.mark.parametrize("without", [("b",), ["a", "c"]])
def test_without_some_experts_the_others_share_out_their_gates(kind, without):
    mixture = make_mixture()
    more = {"colours": {"inputs": ("rays", "color")}, "wide": {"context": 3}}.get(kind, {"kind": kind})
    more |= {"inputs": ("rays", "time", "color")} if kind == "pixel" else {}
    router = VolumePixelRouter(mixture.router.counts, RouterConfig(**more), generator=torch.Generator().manual_seed(2))
    mixture = replace(mixture, router=router)
    with torch.no_grad():
        mixture.router.base.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    params = [p.requires_grad_() for e in mixture.experts.values() for p in e.params.values() if p.is_floating_point()]
    whole, some = (render_mixture(mixture, camera(), 0.3, without=names) for names in ((), without))
    left = [i for i, name in enumerate(mixture.experts) if name not in without]
    gone = [i for i in range(3) if i not in left]
    torch.testing.assert_close(some.images[left], whole.images[left])
    torch.testing.assert_close(some.depths[left], whole.depths[left])
    assert not some.gates[gone].any() and not some.images[gone].any() and not some.alphas[gone].any()
    torch.testing.assert_close(some.gates.sum(0), torch.ones_like(some.gates[0]))
    torch.testing.assert_close(some.color, blend(some.images, some.gates))
    if kind not in ("pixel", "colours"):  # those see the other experts' pictures
        torch.testing.assert_close(some.gates[left], whole.gates[left] / whole.gates[left].sum(0))
    some.color.square().sum().backward()
    moved = {n: any(p.grad is not None and p.grad.any() for p in e.params.values()) for n, e in mixture.experts.items()}
    assert moved == {name: name not in without for name in mixture.experts}
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in [*params, *mixture.router.parameters()])


@pytest.mark.parametrize("without", [("b", "d"), ("a", "b", "c"), "abc"])
def test_who_is_left_out_has_to_be_there_and_not_everyone(without):
    with pytest.raises(ConfigError, match="without"):
        render_mixture(make_mixture(), camera(), 0.3, without=without)


@torch.no_grad()
def test_folder_round_trip(tmp_path):
    mixture = make_mixture()
    save_mixture(mixture, tmp_path / "m", meta={"note": 1})
    again = load_mixture(tmp_path / "m")
    assert list(again.experts) == ["a", "b", "c"] and read_manifest(tmp_path / "m")["meta"] == {"note": 1}
    one, two = (render_mixture(m, camera(), 0.4, backend="reference").color for m in (mixture, again))
    assert torch.equal(one, two)
    assert again.experts["b"].options == RasterOptions(eps2d=0.1, compensate=True)


def test_what_holds_tensors_is_equal_to_itself_alone():
    one, two = make_mixture(), make_mixture()
    assert one == one and one != two and one.experts["a"] != two.experts["a"]
    assert camera() not in [camera()] and len({one, two}) == 2


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


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


def stop_at(monkeypatch, number: int) -> list[str]:
    """From the call with this number on, nothing reaches the disk any more; returns what was called."""
    called: list[str] = []

    def watched(name, original):
        def call(*args, **kwargs):
            called.append(name)
            if len(called) >= number:
                raise Killed
            return original(*args, **kwargs)

        return call

    for owner, name in ((os, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree"), (os, "fsync")):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    return called


def test_a_mixture_is_replaced_as_a_whole_wherever_it_is_cut_short(tmp_path, monkeypatch):
    old = make_mixture()
    experts = {"b": make_expert("polynomial", 7, 5), "d": make_expert("interpolation", 9, 6)}
    new, seen = Mixture(experts, VolumePixelRouter([7, 9])), set()
    for number in range(1, 200):
        folder = tmp_path / str(number)
        save_mixture(old, folder, {"which": "old"})
        called = stop_at(monkeypatch, number)
        with suppress(Killed):
            save_mixture(new, folder, {"which": "new"})
        monkeypatch.undo()
        found, which = load_mixture(folder), read_manifest(folder)["meta"]["which"]
        seen.add(which)
        assert list(found.experts) == list({"old": old, "new": new}[which].experts)
        assert {p.stem for p in (folder / "experts").iterdir()} == set(found.experts)
        save_mixture(new, folder, {"which": "new"})
        assert {p.name for p in folder.iterdir()} == {"experts", "router.safetensors", "manifest.json"}
        if len(called) < number:
            break
    assert seen == {"old", "new"} and 10 < number < 199


def test_a_mixture_can_be_written_over_one_that_nobody_can_read(tmp_path):
    save_mixture(make_mixture(), tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    save_mixture(make_mixture(), tmp_path)
    assert list(load_mixture(tmp_path).experts) == ["a", "b", "c"]


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "experts").mkdir()
    for name in ("notes.txt", "experts/mine.safetensors"):
        (tmp_path / name).write_text("mine")
    save_mixture(make_mixture(), tmp_path)
    save_mixture(make_mixture(), tmp_path)
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "experts" / "mine.safetensors").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\\b", 5])
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    whole = make_mixture()
    renamed = Mixture(dict(zip([name, "b", "c"], whole.experts.values(), strict=True)), whole.router)
    with pytest.raises(ConfigError, match="without slashes"):
        save_mixture(renamed, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    save_mixture(whole, tmp_path / "m")
    manifest = tmp_path / "m" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"a"', json.dumps(name)))
    with pytest.raises(FormatError, match="'experts': expected names of files"):
        load_mixture(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"experts": ["a", "b"]}, "'sha256': expected"),
        ({"experts": ["a", "b", []]}, "'experts': expected names"),
        ({"sha256": {}}, "'sha256': expected"),
        ({"experts": "abc"}, "expected a list"),
        ({"version": 2}, "version 1"),
    ],
)
def test_a_manifest_without_meaning_is_refused(change, says, tmp_path):
    save_mixture(make_mixture(), tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(FormatError, match=says):
        load_mixture(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        [], {}, {"counts": [10**15, 1, 1]}, {"counts": ["a"]}, {"counts": [-1, 66]}, {"counts": None},
        {"config": {"hidden": [10**12]}}, {"config": {"temperature": 0}}, {"config": {"kind": "x"}}, {"config": {"odd": 1}},
        {"config": {"temperature": "hot"}}, {"config": 3},
    ],
)  # fmt: skip
def test_a_router_without_meaning_is_refused(header, tmp_path):
    whole = make_mixture().router
    head = whole.to_config()
    if isinstance(header, dict) and header:
        head |= header | ({"config": head["config"] | header["config"]} if isinstance(header.get("config"), dict) else {})
    else:
        head = header
    save_file(dict(whole.state_dict()), tmp_path / "r.safetensors", metadata={"moegs": json.dumps(head)})
    with pytest.raises(FormatError, match=r"r\.safetensors: not a readable router"):
        load_router(tmp_path / "r.safetensors")


def test_a_router_comes_back_whole_and_trainable(tmp_path):
    whole = make_mixture()
    save_mixture(whole, tmp_path)
    again = load_router(tmp_path / "router.safetensors")
    state = again.state_dict()
    assert all(torch.equal(state[k], v) for k, v in whole.router.state_dict().items())
    assert again.counts == whole.router.counts and all(p.requires_grad for p in again.parameters())
    assert all(v.data_ptr() % 64 == 0 for v in state.values() if v.numel())


def test_a_router_may_lack_tensors_that_are_empty_and_no_others(tmp_path):
    whole = VolumePixelRouter([2, 3], RouterConfig(channels=0))
    for lost, value in whole.state_dict().items():
        kept = {k: v for k, v in whole.state_dict().items() if k != lost}
        save_file(kept, tmp_path / "r.safetensors", metadata={"moegs": json.dumps(whole.to_config())})
        if value.numel():
            with pytest.raises(FormatError, match=f"Missing key.*{lost}"):
                load_router(tmp_path / "r.safetensors")
        else:
            assert load_router(tmp_path / "r.safetensors").state_dict()[lost].shape == value.shape


def test_experts_survive_their_file_and_strangers_are_refused(tmp_path):
    expert = make_expert("interpolation", 10, 0)
    save_expert(expert, tmp_path / "e.safetensors")
    again = load_expert(tmp_path / "e.safetensors")
    assert again.prior == expert.prior and all(torch.equal(again.params[k], v) for k, v in expert.params.items())
    assert all(v.data_ptr() % 64 == 0 for v in again.params.values())
    with pytest.raises(FormatError, match="no such file"):
        load_expert(tmp_path / "none.safetensors")
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
