"""Responsibilities against explicit weights at every pixel, and fusion against a hand-made union."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.deform import Fused, get
from moegs.deform.fused import dimmed, merge, split
from moegs.errors import ConfigError, DataError
from moegs.expert import load_expert, render_expert, save_expert
from moegs.gaussians.container import concatenate
from moegs.gaussians.params import count, populations, take
from moegs.render import RasterOptions, rasterize, splat
from moegs.route import Mixture, RouterConfig, VolumePixelRouter, render_mixture
from moegs.route.fuse import contributions, fuse, responsibilities
from tests.route import tiny


def per_pixel_weights(expert, view):
    """``T_i alpha_i`` of every Gaussian at every pixel, by splatting one-hot channels: [h, w, n]."""
    now = expert.at(view.time)
    return splat(now, view.camera, torch.eye(len(now), dtype=now.means.dtype), options=expert.options)


@pytest.mark.parametrize("config", [RouterConfig(), RouterConfig(kind="pixel", inputs=("rays", "color"))])
def test_responsibilities_are_gate_averages(config):
    mixture, views = tiny.mixture(config=config), tiny.views()
    gated, total = torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    for view in views:
        gates = render_mixture(mixture, view.camera, view.time).gates.detach()
        weights = [per_pixel_weights(e, view) for e in mixture.experts.values()]
        gated += torch.cat([(w * g[..., None]).sum((0, 1)) for w, g in zip(weights, gates, strict=True)])
        total += torch.cat([w.sum((0, 1)) for w in weights])
    sums = contributions(mixture, views)
    torch.testing.assert_close(sums.gated, gated)
    torch.testing.assert_close(sums.total, total)
    shown = total > 1e-6
    assert shown.sum() > 8
    got = responsibilities(mixture, views).double()
    torch.testing.assert_close(got[shown], (gated / total)[shown], rtol=1e-5, atol=0)


def test_what_no_view_shows_gets_the_mean_of_its_expert():
    mixture = tiny.mixture()
    params = dict(mixture.experts["a"].params)
    params["gaussian.means"] = params["gaussian.means"].clone()
    params["gaussian.means"][2, 2] = -40.0
    hidden = Mixture(mixture.experts | {"a": replace(mixture.experts["a"], params=params)}, mixture.router)
    sums, got = contributions(hidden, tiny.views()), responsibilities(hidden, tiny.views())
    assert sums.total[2] == 0
    assert float(got[2]) == pytest.approx(float(sums.gated[:7].sum() / sums.total[:7].sum()), rel=1e-6)
    with pytest.raises(DataError, match="at least one view"):
        responsibilities(hidden, [])


def test_an_expert_that_no_view_shows_is_not_erased():
    mixture, views = tiny.mixture(), tiny.views()
    params = dict(mixture.experts["a"].params)
    params["gaussian.means"] = params["gaussian.means"] - torch.tensor([0.0, 0.0, 1e4])
    got = responsibilities(
        Mixture(mixture.experts | {"a": replace(mixture.experts["a"], params=params)}, mixture.router), views
    )
    assert torch.equal(got[:7], torch.full((7,), 1 / 2))
    back = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    away = [replace(v, camera=replace(v.camera, viewmat=back.to(v.camera.viewmat) @ v.camera.viewmat)) for v in views]
    with pytest.raises(DataError, match="no view shows any Gaussian"):
        fuse(mixture, away)


@torch.no_grad()
def test_gradients_are_taken_whoever_asks():
    mixture, views = tiny.mixture(), tiny.views()
    with torch.enable_grad():
        expected = responsibilities(mixture, views)
    assert torch.equal(responsibilities(mixture, views), expected)


@pytest.mark.parametrize("scaling", ["opacity", "density"])
def test_fused_is_the_union_by_hand(scaling, tmp_path):
    mixture, views = tiny.mixture(torch.float32), tiny.views()
    fused = fuse(mixture, views, scaling=scaling, backend="reference")
    save_expert(fused, tmp_path / "fused.safetensors")
    fused = load_expert(tmp_path / "fused.safetensors")
    trust = responsibilities(mixture, views, backend="reference")
    for t in (0.0, 0.25, 0.9):
        union = concatenate([e.at(t) for e in mixture.experts.values()])
        o = union.opacities
        by_hand = replace(union, opacities=o * trust if scaling == "opacity" else 1 - (1 - o) ** trust)
        expected = rasterize(by_hand, views[0].camera, backend="reference").color
        got = render_expert(fused, views[0].camera, t, backend="reference").color
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
    assert list(populations(fused.params)) == ["0", "1.linear", "1.spline"]
    assert len(fused) == 16 and fused.meta["fused"] == ["a", "b"]


def test_selecting_from_a_fused_model_keeps_its_factors():
    mixture = tiny.mixture(torch.float32)
    fused = fuse(mixture, tiny.views(), backend="reference")
    keep = torch.arange(16) % 3 != 0
    part = replace(fused, params=take(fused.params, keep))
    torch.testing.assert_close(part.at(0.3).opacities, fused.at(0.3).opacities[keep])


def test_raster_options_that_differ_come_from_the_most_trusted():
    mixture = tiny.mixture(torch.float32, config=RouterConfig(kind="volume"))
    with torch.no_grad():
        mixture.router.base.copy_(torch.where(torch.arange(16) < 7, -3.0, 3.0))
    sharp = RasterOptions(eps2d=0.1, compensate=True)
    experts = mixture.experts | {"b": replace(mixture.experts["b"], options=sharp, background=(0.5, 0.5, 0.5))}
    fused = fuse(Mixture(experts, mixture.router), tiny.views(), backend="reference")
    assert fused.options == sharp and fused.background == (0.5, 0.5, 0.5) and fused.meta["raster options of"] == "b"


def test_decoders_cannot_be_fused():
    featured = tiny.expert("polynomial", 5, 0, torch.float32, color="features")
    featured = replace(featured, decoder="sigmoid")
    with pytest.raises(ConfigError, match="'f' decodes its colours"):
        fuse(Mixture({"f": featured}, VolumePixelRouter([5])), tiny.views())
    with pytest.raises(ConfigError, match="decoder"):
        Fused.of([featured.prior])
    with pytest.raises(ConfigError, match="cannot be fused again"):
        Fused.of([Fused()])
    with pytest.raises(ConfigError, match="1 to 10 parts"):
        Fused(parts=())


def test_parts_come_back_out():
    parts = [tiny.expert("hexplane", 4, 0).params, tiny.expert("interpolation", 6, 1, dynamic=0.5).params]
    joined = merge(parts)
    assert count(joined) == 10
    for part, again in zip(parts, split(joined, 2), strict=True):
        assert part.keys() == again.keys() and all(torch.equal(part[k], again[k]) for k in part)
    with pytest.raises(ConfigError, match="number of a part"):
        split(joined | {"plane.xy": torch.zeros(1)}, 2)


def test_density_keeps_what_is_shared_out_closed():
    o = torch.tensor([0.9, 0.999, 1.0, 0.0], dtype=torch.float64)
    half = torch.full_like(o, 0.5)
    twice = 1 - (1 - dimmed(o, half, "density")) ** 2
    torch.testing.assert_close(twice, o, atol=2e-6, rtol=0)
    torch.testing.assert_close(dimmed(o, half, "opacity"), o / 2)
    assert dimmed(o, None, "opacity") is o


def test_hexplane_tensors_are_numbered_and_deform_the_same():
    prior = get("hexplane").for_clip(4)
    alone = tiny.expert("hexplane", 6, 0, torch.float32)
    fused = Fused.of([prior, prior])
    now = fused.deform(merge([alone.params, alone.params]), 0.4)
    torch.testing.assert_close(now.means[:6], alone.at(0.4).means)
    torch.testing.assert_close(now.means[6:], now.means[:6])
