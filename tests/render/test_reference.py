"""The reference rasteriser: against a pixel loop, against finite differences, and at the edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.errors import BackendError, ConfigError, ShapeError
from moegs.gaussians import Gaussians, covariances
from moegs.render import RasterOptions, expected_depth, rasterize, rays, shares, splat
from moegs.render.projection import project
from moegs.render.types import RasterInputs
from tests.render.scenes import camera, leaves, random_gaussians


def naive(gaussians: Gaussians, cam, values):
    """Blend pixel by pixel and Gaussian by Gaussian, straight from the formulas."""
    inputs = RasterInputs(gaussians, cam, (RasterOptions(),), torch.zeros(1, 3, dtype=values.dtype))
    p = project(inputs)
    order = sorted(range(len(p.depths)), key=lambda i: (p.depths[i].item(), i))
    image = torch.zeros(cam.height, cam.width, values.shape[1], dtype=values.dtype)
    for y in range(cam.height):
        for x in range(cam.width):
            transmittance = 1.0
            for i in order:
                dx, dy = p.means2d[i, 0] - (x + 0.5), p.means2d[i, 1] - (y + 0.5)
                a, b, c = p.conics[i]
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(0.999, (p.opacities[i] * torch.exp(-sigma)).item())
                if sigma < 0 or alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) <= 1e-4:
                    break
                image[y, x] += transmittance * alpha * values[p.index[i]]
                transmittance *= 1 - alpha
    return image


def test_equals_a_loop_over_pixels():
    gaussians, cam = random_gaussians(30, dtype=torch.float64), camera(20, 18, torch.float64)
    values = torch.rand(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tiled = splat(gaussians, cam, values, backend="reference")
    torch.testing.assert_close(tiled, naive(gaussians, cam, values), atol=1e-9, rtol=0)


@pytest.mark.parametrize("options", [RasterOptions(), RasterOptions(eps2d=0.1, compensate=True)])
def test_gradcheck(options: RasterOptions):
    cam = camera(12, 9, torch.float64)
    source = random_gaussians(5, seed=3, dtype=torch.float64)
    features = torch.rand(5, 2, dtype=torch.float64)

    def run(means, opacities, sh, quats, scales, values, viewmat, background):
        gaussians = Gaussians(means, opacities, sh, quats, scales)
        out = rasterize(gaussians, replace(cam, viewmat=viewmat), features=values, options=options,
                        background=background, backend="reference")  # fmt: skip
        return out.color, out.depth, out.alpha, out.features

    inputs = [source.means, source.opacities, source.sh, source.quats, source.scales * 2, features, cam.viewmat]
    inputs.append(torch.rand(3, dtype=torch.float64))
    assert torch.autograd.gradcheck(run, [x.clone().requires_grad_() for x in inputs])


def test_gradcheck_of_covariances():
    cam, source = camera(12, 9, torch.float64), random_gaussians(4, seed=5, dtype=torch.float64)
    lower = torch.linalg.cholesky(covariances(source))

    def run(factor):
        covars = factor @ factor.mT
        return rasterize(Gaussians(source.means, source.opacities, source.sh, covars=covars), cam).color

    assert torch.autograd.gradcheck(run, [lower.requires_grad_()])


def test_covariances_draw_the_same_as_quaternions_and_scales():
    gaussians, cam = random_gaussians(20), camera()
    packed = Gaussians(gaussians.means, gaussians.opacities, gaussians.sh, covars=covariances(gaussians))
    one, two = (rasterize(g, cam, backend="reference").color for g in (gaussians, packed))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_groups_equal_separate_calls_bit_for_bit():
    gaussians, cam = random_gaussians(40), camera()
    tags = torch.arange(40) % 3
    options = [RasterOptions(), RasterOptions(eps2d=0.1, compensate=True), RasterOptions(near=1.5, far=3.0)]
    background = torch.rand(3, 3)
    features = torch.rand(40, 2)
    whole = rasterize(gaussians, cam, groups=tags, options=options, background=background, features=features,
                      backend="reference")  # fmt: skip
    for g in range(3):
        alone = rasterize(gaussians[tags == g], cam, options=options[g], background=background[g],
                          features=features[tags == g], backend="reference")  # fmt: skip
        for name in ("color", "depth", "alpha", "features"):
            assert torch.equal(getattr(whole, name)[g], getattr(alone, name))
        assert torch.equal(whole.radii[tags == g], alone.radii)


def test_probe_receives_the_image_plane_gradient():
    gaussians, cam = random_gaussians(10, dtype=torch.float64), camera(dtype=torch.float64)
    probe = torch.zeros(10, 2, dtype=torch.float64, requires_grad=True)
    rasterize(gaussians, cam, probe=probe).color.square().sum().backward()
    step = 1e-6
    for i in range(10):
        moved = torch.zeros(10, 2, dtype=torch.float64)
        moved[i, 0] = step
        plus = rasterize(gaussians, cam, probe=moved).color.square().sum()
        minus = rasterize(gaussians, cam, probe=-moved).color.square().sum()
        torch.testing.assert_close((plus - minus) / (2 * step), probe.grad[i, 0], atol=1e-5, rtol=1e-5)


def test_absolute_gradients_bound_signed_ones_and_leave_the_rest_alone():
    cam = camera()
    results = []
    for absgrad in (False, True):
        gaussians, tensors = leaves(random_gaussians(25))
        probe = torch.zeros(25, 2, requires_grad=True)
        rasterize(gaussians, cam, probe=probe, absgrad=absgrad, backend="reference").color.square().sum().backward()
        results.append((probe.grad, tensors["means"].grad))
    assert (results[1][0] >= results[0][0].abs() - 1e-5).all()
    assert (results[1][0] > results[0][0].abs() + 1e-5).any()
    torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("n", [0, 1])
def test_few_gaussians(n: int):
    gaussians = random_gaussians(8)[:n]
    out = rasterize(gaussians, camera(), background=[0.1, 0.2, 0.3], features=torch.ones(n, 1), backend="reference")
    assert out.color.shape == (28, 40, 3) and out.features.shape == (28, 40, 1) and out.radii.shape == (n, 2)
    if n == 0:
        torch.testing.assert_close(out.color, torch.tensor([0.1, 0.2, 0.3]).expand(28, 40, 3))


def test_gradients_of_degenerate_gaussians_are_finite():
    base = random_gaussians(6)
    scales = base.scales.clone()
    scales[0], scales[1], scales[2] = 1e-12, 1e6, torch.tensor([1e-9, 1e-9, 3.0])
    quats = base.quats.clone()
    quats[3] = 0
    means = base.means.clone()
    means[4] = torch.tensor([0.0, 0.0, -0.1999])  # a hair beyond the near plane
    gaussians, tensors = leaves(replace(base, scales=scales, quats=quats, means=means))
    for compensate in (False, True):
        out = rasterize(gaussians, camera(), options=RasterOptions(compensate=compensate), backend="reference")
        (out.color.sum() + out.depth.sum()).backward()
    assert all(t.grad.isfinite().all() for t in tensors.values())


def test_expected_depth_of_a_wall_is_its_distance():
    wall = Gaussians(torch.tensor([[0.0, 0, 3.0]]), torch.tensor([0.9]), torch.zeros(1, 1, 3),
                     torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[5.0, 5.0, 0.01]]))  # fmt: skip
    cam = replace(camera(tilt=0.0), viewmat=torch.eye(4))
    out = rasterize(wall, cam, backend="reference")
    torch.testing.assert_close(expected_depth(out), torch.full((28, 40), 3.0), atol=1e-4, rtol=0)


def test_rays_go_through_the_projected_point():
    cam = camera(dtype=torch.float64)
    ray = rays(cam)[7, 11]
    point = ray[:3] + 2.5 * ray[3:]
    in_camera = cam.viewmat[:3, :3] @ point + cam.viewmat[:3, 3]
    pixel = cam.K @ in_camera / in_camera[2]
    torch.testing.assert_close(pixel[:2], torch.tensor([11.5, 7.5], dtype=torch.float64))


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_without_a_filter_what_has_no_size_is_not_drawn(backend):
    point = Gaussians(
        means=torch.tensor([[0.3, 0.2, 2.0]]), opacities=torch.tensor([0.8]), sh=torch.ones(1, 1, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]), scales=torch.zeros(1, 3),
    )  # fmt: skip
    assert not rasterize(point, camera(), options=RasterOptions(eps2d=0.0), backend=backend).alpha.any()


def test_bad_requests_name_the_argument():
    gaussians, cam = random_gaussians(4), camera()
    with pytest.raises(ShapeError, match="features: expected"):
        rasterize(gaussians, cam, features=torch.ones(3, 1))
    with pytest.raises(ConfigError, match="groups: expected tags"):
        rasterize(gaussians, cam, groups=torch.tensor([0, 1, 2, 3]), options=[RasterOptions()] * 2)
    with pytest.raises(ConfigError, match=r"expected tags from 0 to K-1, got 8589934592 for 4 Gaussians"):
        rasterize(gaussians, cam, groups=torch.full((4,), 2**33))
    with pytest.raises(ShapeError, match=r"values: expected \[4, f\]"):
        splat(gaussians, cam, torch.ones(3, 2))
    with pytest.raises(ShapeError, match=r"weights: expected \[28, 40\], got \[3, 3\]"):
        shares(gaussians, cam, torch.ones(3, 3))
    with pytest.raises(ConfigError, match="or None for the camera's"):
        RasterOptions(far=float("inf"))
    with pytest.raises(BackendError, match="nonsense"):
        rasterize(gaussians, cam, backend="nonsense")
    with pytest.raises(ShapeError, match="background"):
        rasterize(gaussians, cam, background=[1.0, 2.0])
    with pytest.raises(ShapeError, match="opacities"):
        rasterize(replace(gaussians, opacities=gaussians.opacities.double()), cam)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("field", ["means", "quats", "scales", "opacities", "sh", "covars", "features"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_both_backends_refuse_what_is_not_finite_in_the_same_words(backend, field, value):
    if backend == "native":
        pytest.importorskip("moegs.render.native._native", reason="the kernels are not built")
    drawn = random_gaussians(30, 4)
    drawn = replace(drawn, means=drawn.means.abs() * 0.1 + torch.tensor([0, 0, 2.0]))
    if field == "covars":
        drawn = replace(drawn, covars=covariances(drawn), quats=None, scales=None)
    features = torch.zeros(30, 2)
    (features if field == "features" else getattr(drawn, field))[17].fill_(value)
    with pytest.raises(ShapeError, match=rf"^{field}: expected finite values, got -?(nan|inf) at index \[17"):
        rasterize(drawn, camera(), features=features, backend=backend)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_camera_that_lost_its_meaning_is_refused(backend):
    broken = camera()
    broken.viewmat[0, 3] = torch.nan  # after it was made
    with pytest.raises(ShapeError, match="camera: expected finite matrices"):
        rasterize(random_gaussians(5, 4), broken, backend=backend)
