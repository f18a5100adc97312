from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moegs.deform import Polynomial
from moegs.errors import BackendError, ConfigError, ShapeError
from moegs.expert import Expert, render_expert
from moegs.metrics import psnr
from moegs.report import (
    draw_comparison,
    error_maps,
    frame_scores,
    motion_regions,
    ranking,
    region_scores,
    regions_sheet,
    win_map,
)
from moegs.report.regions import COLORS
from tests.train.scenes import small_scene

NAMES = ("one", "two", "three")


def _frames(n: int = 24, noise: float = 0.0) -> torch.Tensor:
    """Left third still, middle brightening slowly, right third blinking."""
    frames = torch.full((n, 12, 30, 3), 0.4)
    frames[:, :, 10:20] += torch.linspace(0, 0.3, n)[:, None, None, None]
    frames[1::2, :, 20:] += 0.3
    return frames + noise * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_still_slow_and_fast_pixels_are_told_apart(noise):
    labels = motion_regions(_frames(noise=noise), fast_share=0.5)
    inside = labels[:, [4, 5, 14, 15, 25, 26]]  # the averaging over neighbours mixes the borders
    assert inside.tolist() == [[0, 0, 1, 1, 2, 2]] * 12


def test_nothing_moves_in_a_still_and_frames_may_be_a_stream():
    assert not motion_regions(iter([torch.rand(5, 6, 3)] * 2)).any()
    with pytest.raises(ConfigError, match="two frames or more, got 1"):
        motion_regions([torch.rand(5, 6, 3)])


def test_the_deviation_is_that_of_all_frames_at_once():
    frames = _frames(9, 0.05)
    labels = motion_regions(frames, floor=0.1)
    smooth = torch.nn.functional.avg_pool2d(
        frames.double().permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False
    )  # fmt: skip
    deviation = smooth.var(0, correction=0).mean(0).sqrt()
    noise = smooth.diff(dim=0).square().mean((0, 1)).sqrt().flatten().sort().values[360 // 4 - 1] / 2**0.5
    assert torch.equal(labels > 0, deviation > max(0.1, 3 * float(noise)))


def test_scores_of_a_region_are_those_of_its_pixels():
    labels = torch.tensor([[0, 0, 1, 2]])
    errors = torch.tensor([[[0.01, 0.03, 0.1, 0.0]], [[0.02, 0.01, 0.01, 0.0]]])
    found = region_scores(errors, labels, ["a", "b"])
    assert list(found) == ["all", "static", "slow", "fast"]
    assert found["static"]["psnr"] == {"a": pytest.approx(16.9897), "b": pytest.approx(18.2391)}
    assert found["static"]["wins"] == {"a": 0.5, "b": 0.5} and found["static"]["share"] == 0.5
    assert found["slow"]["best"] == "b" and found["slow"]["wins"]["b"] == 1
    assert found["fast"]["psnr"] == {"a": None, "b": None}
    assert "fast" not in region_scores(errors, labels.clamp_max(1), ["a", "b"])


@given(st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_regions_add_up_to_the_picture(k, seed):
    g = torch.Generator().manual_seed(seed)
    errors, labels = torch.rand(k, 5, 7, generator=g), torch.randint(0, 3, (5, 7), generator=g)
    found = region_scores(errors, labels, [str(i) for i in range(k)])
    whole, parts = found.pop("all"), found.values()
    assert sum(p["share"] for p in parts) == pytest.approx(1)
    for name in whole["psnr"]:
        assert sum(p["share"] * p["wins"][name] for p in parts) == pytest.approx(whole["wins"][name])
        mean = sum(p["share"] * 10 ** (-p["psnr"][name] / 10) for p in parts)
        assert mean == pytest.approx(10 ** (-whole["psnr"][name] / 10))


def test_scores_of_frames_name_each_winner():
    found = frame_scores({"a": [20.0, 30.0, float("inf")], "b": [25.0, 10.0, 40.0]})
    assert found["best"] == ["b", "a", "a"] and found["wins"] == {"a": 2, "b": 1}
    assert found["psnr"]["a"][2] is None
    with pytest.raises(ShapeError, match="2, 1 frames differ"):
        frame_scores({"a": [1.0, 2.0], "b": [1.0]})


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ShapeError, match="2 names differ"):
        region_scores(torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.long), ["a", "b"])


def test_a_ranking_begins_with_the_best():
    assert ranking({"a": 20.0, "b": None, "c": 30.5}) == "b inf, c 30.50, a 20.00"


def test_the_win_map_has_the_winners_colour_and_pales_where_it_is_close():
    errors = torch.full((3, 9, 30), 0.1)
    errors[1, :, :15] = 0.01
    errors[2, :, 15:] = 0.099
    picture = win_map(errors, window=1)
    assert picture[4, 3].tolist() == list(COLORS[1])
    pale = picture[4, 25].astype(int)
    assert (pale >= COLORS[2]).all() and pale.min() > 200
    assert win_map(errors[:1]).shape == (9, 30, 3)  # one expert alone wins everywhere, ahead of nobody


def test_the_sheet_shows_all_three_regions():
    labels = torch.arange(3).repeat_interleave(20)[None].repeat(20, 1)
    sheet = regions_sheet(torch.rand(20, 60, 3), torch.rand(3, 20, 60), labels, NAMES)
    greys = {tuple(c) for c in sheet[40:].reshape(-1, 3).tolist()} | {tuple(c) for c in sheet.reshape(-1, 3).tolist()}
    assert {(40, 40, 40), (140, 140, 140), (240, 240, 240), *COLORS[:3]} <= greys


def test_error_maps_are_those_of_each_expert_alone():
    scene = small_scene()
    prior = Polynomial(sh_degree=0)
    first = Expert(prior, prior.init(scene.cloud))
    second = replace(first, params=first.params | {"gaussian.opacities": first.params["gaussian.opacities"] + 3})
    errors = error_maps([first, second], scene, 0)
    for one, found in zip((first, second), errors, strict=True):
        images = [render_expert(one, scene.cameras[0], scene.time(f)).color for f in range(scene.n_frames)]
        expected = [10 ** (-psnr(i.clamp(0, 1), scene.image(0, f)) / 10) for f, i in enumerate(images)]
        assert float(found.mean()) == pytest.approx(np.mean(expected), rel=1e-4)


def test_charts_need_matplotlib_and_say_so(monkeypatch):
    regions = region_scores(torch.rand(3, 6, 6), torch.randint(0, 3, (6, 6)), NAMES)
    frames = frame_scores({name: [20.0 + i, 21.0] for i, name in enumerate(NAMES)})
    pytest.importorskip("matplotlib")
    with Image.open(io.BytesIO(draw_comparison(regions, frames))) as chart:
        assert chart.width > chart.height > 300
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match="'report' extra"):
        draw_comparison(regions, frames)
