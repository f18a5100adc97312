"""Gaussians rewritten for viewers that draw with 3D Gaussian Splatting's own low-pass filter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moegs import interop
from moegs.gaussians import Gaussians
from moegs.gaussians.container import covariances
from moegs.gaussians.ply import read_ply
from moegs.interop._refilter import refiltered, viewpoints
from moegs.metrics import psnr
from moegs.render import Camera, RasterOptions, rasterize

from .models import ORIGINALS, expert

FOCAL, DISTANCE = 60.0, 3.0
PIXEL = DISTANCE / FOCAL
SEEN_FROM = torch.tensor([[0.0, 0, 0, 0, 0, 1, FOCAL], [0.0, 0, 9, 0, 0, 1, 1]])  # the second is behind
SHARP = RasterOptions(eps2d=0.1, compensate=True)


def camera(size: int = 48) -> Camera:
    K = torch.tensor([[FOCAL, 0, size / 2], [0, FOCAL, size / 2], [0, 0, 1]])
    return Camera(torch.eye(4), K, width=size, height=size)


def blobs(scales_in_pixels: list[list[float]], opacity: float = 0.6, seed: int = 0) -> Gaussians:
    """Gaussians apart from each other in a plane across the view, turned at random."""
    n = len(scales_in_pixels)
    generator = torch.Generator().manual_seed(seed)
    places = torch.tensor([[12.0 * (i % 3) - 12.3, 12.0 * (i // 3) - 12.4, 0.0] for i in range(n)]) * PIXEL
    return Gaussians(
        means=places + torch.tensor([0.0, 0.0, DISTANCE]), opacities=torch.full((n,), opacity), sh=torch.full((n, 1, 3), 0.7),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1),
        scales=torch.tensor(scales_in_pixels) * PIXEL,
    )  # fmt: skip


def pictures(gaussians: Gaussians, options: RasterOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """As it is drawn by its own options, and by a viewer's when it was rewritten."""
    viewer = refiltered(gaussians, options, SEEN_FROM)
    return tuple(rasterize(g, camera(), options=o).alpha for g, o in ((gaussians, options), (viewer, RasterOptions())))


@pytest.mark.parametrize("options", [SHARP, RasterOptions(eps2d=0.1), RasterOptions(eps2d=0.3, compensate=True)])
def test_what_is_wider_than_the_filter_looks_the_same(options):
    before, after = pictures(blobs([[2.0, 1.0, 1.5], [3.0, 2.0, 0.8], [1.2, 1.2, 1.2], [2.5, 0.9, 1.0]]), options)
    torch.testing.assert_close(after, before, atol=0.02, rtol=0)
    assert before.max() > 0.4


@given(st.lists(st.lists(st.floats(0.02, 3.0), min_size=3, max_size=3), min_size=1, max_size=9), st.integers(0, 99))
def test_what_is_thinner_covers_as_much(scales, seed):
    before, after = pictures(blobs(scales, opacity=0.4, seed=seed), SHARP)
    assert after.max() <= before.max() + 0.02
    assert abs(float(after.sum() - before.sum())) < 0.06 * float(before.sum()) + 0.15


def test_a_cloud_of_thin_gaussians_is_nearer_to_itself_than_unchanged():
    generator = torch.Generator().manual_seed(2)
    n = 400
    places = (torch.rand(n, 3, generator=generator) - 0.5) * torch.tensor([30, 30, 6]) * PIXEL
    cloud = Gaussians(
        means=places + torch.tensor([0, 0, DISTANCE]),
        opacities=torch.rand(n, generator=generator) * 0.8, sh=torch.rand(n, 1, 3, generator=generator),
        quats=torch.randn(n, 4, generator=generator), scales=torch.rand(n, 3, generator=generator) * PIXEL,
    )  # fmt: skip
    seen = rasterize(cloud, camera(), options=SHARP).color
    unchanged = psnr(rasterize(cloud, camera()).color, seen)
    rewritten = psnr(rasterize(refiltered(cloud, SHARP, SEEN_FROM), camera()).color, seen)
    assert rewritten > unchanged + 6


def test_covariances_are_rewritten_too():
    shaped = blobs([[2.0, 1.0, 1.5], [0.2, 0.3, 0.1]])
    as_covars = replace(shaped, quats=None, scales=None, covars=covariances(shaped))
    a, b = (covariances(refiltered(g, SHARP, SEEN_FROM)) for g in (shaped, as_covars))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    "found",
    [None, [], 3, [None], [[0.0, 1, 2]], [[0.0] * 7], [[0] * 6 + [math.nan]], [["0", 0, 0, 0, 0, 1, 9]]],
)
def test_places_that_are_none(found):
    assert viewpoints({"seen_from": found}) is None


@pytest.mark.parametrize("format", ORIGINALS)
def test_sequences_are_rewritten_where_it_is_known_from_where_they_were_seen(tmp_path, format):
    prior = ORIGINALS[format][0]
    plain = expert(prior, options=RasterOptions(near=0.2))
    sharp = replace(plain, options=SHARP, meta={"seen_from": [[0.0, 0.0, -4.0, 0.0, 0.0, 1.0, 40.0]]})

    def written(name: str, model, **how) -> Gaussians:
        return read_ply(interop.export_ply_sequence(model, tmp_path / name, [0.5], **how)[0])

    untouched = written("plain", plain)
    assert interop.fits_viewers(plain) and interop.fits_viewers(sharp) and not interop.fits_viewers(replace(sharp, meta={}))
    for name, model, how in (
        ("nowhere", replace(sharp, meta={}), {}), ("as-trained", sharp, {"as_trained": True}),
        ("same", replace(sharp, options=RasterOptions()), {}),
    ):  # fmt: skip
        assert torch.equal(written(name, model, **how).scales, untouched.scales)
    now = written("sharp", sharp)
    assert (now.scales <= untouched.scales * 1.0001).all() and (now.scales < untouched.scales).any()
    assert torch.equal(now.means, untouched.means)
