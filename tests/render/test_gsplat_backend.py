"""What the CUDA backend hands to the kernels and makes of their answers, with stand-ins held to the rules of gsplat."""

from __future__ import annotations

import pytest
import torch

from moegs.gaussians import Gaussians
from moegs.render import gsplat_backend
from moegs.render.types import RasterInputs, RasterOptions
from tests.render.scenes import camera, mixed_gaussians, random_gaussians


class StandIns:
    """Take the place of the kernels: every Gaussian is kept, nothing is drawn, skipped tiles hold rubbish."""

    def __init__(self):
        self.calls, self.passes = [], 0

    def fully_fused_projection(self, means, quats, scales, covars, width, calc_compensations, **_):
        self.quats, n = quats, len(means)
        assert n > 0  # the kernels divide by it
        self.calls.append((quats is not None and scales is not None, covars is not None, n))
        index = torch.arange(n)
        radii = torch.ones(n, 2, dtype=torch.int32)
        return index * 0, index * 0, index, radii, means[:, :2], means[:, 2], torch.ones(n, 3), None

    def spherical_harmonics(self, degrees_to_use, dirs, coeffs):
        return coeffs[:, 0]

    def isect_tiles(self, image_ids, gaussian_ids, **_):
        assert image_ids.dtype == gaussian_ids.dtype == torch.int64  # the kernels read 64 bits and refuse others
        self.image_ids = image_ids
        return None, image_ids, gaussian_ids.int()

    def isect_offset_encode(self, isect_ids, n_images, tile_width, tile_height):
        return torch.zeros(n_images, tile_height, tile_width, dtype=torch.int32)

    def rasterize_to_pixels(self, colors, image_width, image_height, isect_offsets, masks, **_):
        self.passes += 1
        size = (len(isect_offsets), image_height, image_width)
        alphas = torch.full((*size, 1), 0.0 if masks is None else torch.nan)
        if masks is not None:
            wide = masks.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
            alphas[wide[:, :image_height, :image_width]] = 1.0
        return torch.zeros(*size, colors.shape[1]), alphas


@pytest.fixture
def kernels(monkeypatch) -> StandIns:
    stand_ins = StandIns()
    monkeypatch.setattr(gsplat_backend, "_import_kernels", lambda inputs: stand_ins)
    return stand_ins


def inputs(gaussians: Gaussians, **more) -> RasterInputs:
    options = (RasterOptions(),) * (2 if "groups" in more else 1)
    return RasterInputs(gaussians, camera(), options, torch.ones(len(options), 3), **more)


@pytest.mark.parametrize("grouped", [False, True])
def test_ids_have_the_width_that_the_kernels_read(kernels, grouped: bool):
    tags = (torch.arange(6) % 2).int()
    gsplat_backend.rasterize_gsplat(inputs(random_gaussians(6), **({"groups": tags} if grouped else {})))
    assert kernels.image_ids.tolist() == (tags.tolist() if grouped else [0] * 6)
    assert kernels.passes == 1


def test_shapes_given_in_both_ways_are_projected_each_in_its_own(kernels):
    gaussians = mixed_gaussians(9)
    gsplat_backend.rasterize_gsplat(inputs(gaussians))
    covariant = int(gaussians.by_covar.sum())
    assert kernels.calls == [(True, False, 9 - covariant), (False, True, covariant)]


def test_sets_without_gaussians_are_not_projected(kernels):
    gaussians = mixed_gaussians(9)
    covariant = int(gaussians.by_covar.sum())
    options = (RasterOptions(eps2d=0.1), RasterOptions())
    asked = RasterInputs(gaussians, camera(), options, torch.ones(2, 3), groups=gaussians.by_covar.int())
    gsplat_backend.rasterize_gsplat(asked)
    assert kernels.calls == [(True, False, 9 - covariant), (False, True, covariant)]
    out = gsplat_backend.rasterize_gsplat(inputs(gaussians[:0]))
    assert out.radii.shape == (0, 2) and out.color.shape == (28, 40, 3)


def test_tiles_that_are_left_out_show_the_background(kernels):
    cam = camera()
    tiles = torch.zeros(1, -(-cam.height // 16), -(-cam.width // 16), dtype=torch.bool)
    tiles[0, 0, 0] = True
    out = gsplat_backend.rasterize_gsplat(inputs(random_gaussians(6), tiles=tiles))
    assert out.alpha[:16, :16].min() == 1 and out.alpha.sum() == 16 * 16
    assert out.color[0, :16, :16].max() == 0 and bool((out.color[0, 16:] == 1).all())


def test_a_zero_quaternion_is_no_rotation(kernels):
    gaussians = random_gaussians(3)
    gaussians.quats[1] = 0.0
    gsplat_backend.rasterize_gsplat(inputs(gaussians))
    assert kernels.quats[1].tolist() == [1.0, 0.0, 0.0, 0.0] and bool(kernels.quats.isfinite().all())
