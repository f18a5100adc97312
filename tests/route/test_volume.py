"""The volume router: the union of all Gaussians, dimmed one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.errors import ConfigError, ShapeError
from moegs.expert import load_expert, render_expert, save_expert
from moegs.gaussians.container import concatenate
from moegs.render import rasterize
from moegs.route.volume import VolumeRouter, volume_expert, volume_router_of
from moegs.train import RouteConfig, evaluate, expert_renderer
from moegs.train.volume import fit_volume_router
from tests.route import tiny
from tests.train.scenes import small_scene


def drawn(counts) -> VolumeRouter:
    router = VolumeRouter(counts)
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        router.weights.copy_(torch.randn(router.weights.shape, generator=g))
        router.times.copy_(torch.randn(router.times.shape, generator=g))
    return router


def test_merges_as_written():
    mixture, view = tiny.mixture(torch.float32), tiny.views()[0]
    router = drawn(mixture.router.counts)
    now = [e.at(0.25) for e in mixture.experts.values()]
    union = concatenate(now)
    dimmed = replace(union, opacities=union.opacities * torch.sigmoid(router.weights + 0.25 * router.times))
    expected = rasterize(dimmed, view.camera, background=(0.1, 0.2, 0.3), backend="reference").color
    got = router(now, view.camera, 0.25, background=(0.1, 0.2, 0.3), backend="reference").color
    torch.testing.assert_close(got, expected)
    with pytest.raises(ShapeError, match=r"\[7, 9\]"):
        router(now[:1], view.camera, 0.25)


def test_gradients_reach_both_weights():
    mixture, view = tiny.mixture(torch.float32), tiny.views()[1]
    router = drawn(mixture.router.counts)
    now = [e.at(0.75) for e in mixture.experts.values()]
    router(now, view.camera, 0.75, backend="reference").color.sum().backward()
    torch.testing.assert_close(router.times.grad, 0.75 * router.weights.grad)
    assert router.weights.grad.abs().max() > 0


def test_one_ordinary_expert(tmp_path):
    mixture, view = tiny.mixture(torch.float32), tiny.views()[0]
    router = drawn(mixture.router.counts)
    save_expert(volume_expert(mixture.experts, router), tmp_path / "v.safetensors")
    again = load_expert(tmp_path / "v.safetensors")
    expected = router([e.at(0.25) for e in mixture.experts.values()], view.camera, 0.25, backend="reference").color
    got = render_expert(again, view.camera, 0.25, backend="reference").color
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    back = volume_router_of(again, router.counts)
    assert torch.equal(back.weights, router.weights) and torch.equal(back.times, router.times)


def test_refusals():
    experts = tiny.mixture(torch.float32).experts
    with pytest.raises(ConfigError, match="made for"):
        volume_expert(experts, VolumeRouter([1, 2]))
    with pytest.raises(ConfigError, match="no volume weights"):
        volume_router_of(experts["a"], [7])
    featured = {"f": replace(experts["a"], decoder="sigmoid")}
    with pytest.raises(ConfigError, match="'f'"):
        volume_expert(featured, VolumeRouter([7]))


def test_training_moves_the_weights_alone_and_helps(tmp_path):
    scene = small_scene()
    kinds = {"a": "polynomial", "b": "interpolation"}
    experts = {n: tiny.expert(p, 12, s, torch.float32) for s, (n, p) in enumerate(kinds.items())}
    start = volume_expert(experts, VolumeRouter([12, 12]))
    fitted = fit_volume_router(scene, experts, RouteConfig(steps=25), out=tmp_path, progress=False)
    changed = {k.rpartition(".")[2] for k, v in fitted.params.items() if not torch.equal(v, start.params[k])}
    assert changed == {"volume_weights", "volume_times"}
    before, after = (evaluate(expert_renderer(e), scene, scene.train, timed=1).mean.psnr for e in (start, fitted))
    assert after > before + 0.5
    again = fit_volume_router(scene, experts, RouteConfig(steps=25), out=tmp_path, resume=True, progress=False)
    assert all(torch.equal(again.params[k], v) for k, v in fitted.params.items())
