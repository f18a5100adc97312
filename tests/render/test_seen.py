"""Footprints and colours as 4DGS draws them, on every backend of the CPU, and mixed with others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from moegs.errors import ConfigError
from moegs.gaussians import Gaussians, concatenate, covariances, harmonics
from moegs.render import RasterOptions, rasterize
from moegs.render.native.rasterize import project_native
from moegs.render.seen import as_seen, with_colors
from tests.render.scenes import camera, leaves, mixed_gaussians, random_gaussians

BENT = RasterOptions(footprint="4dgs")


def footprint_of_4dgs(gaussians: Gaussians, cam) -> torch.Tensor:
    """The image covariance as its kernel computes it from tan(-1/2), one Gaussian at a time."""
    tangent = math.tan(-0.5)
    focal = cam.width / (2 * tangent), cam.height / (2 * tangent)
    low, high = -1.3 * tangent, 1.3 * tangent  # low > high
    found = []
    for mean, sigma in zip(gaussians.means, covariances(gaussians), strict=True):
        t = cam.viewmat[:3, :3] @ mean + cam.viewmat[:3, 3]
        x, y = (min(high, max(low, float(v / t[2]))) * float(t[2]) for v in t[:2])
        z = float(t[2])
        rows = [[focal[0] / z, 0, -focal[0] * x / z**2], [0, focal[1] / z, -focal[1] * y / z**2]]
        jacobian = torch.tensor(rows, dtype=mean.dtype) @ cam.viewmat[:3, :3]
        found.append(jacobian @ sigma @ jacobian.T)
    return torch.stack(found)


def project(gaussians: Gaussians, cam) -> torch.Tensor:
    from moegs.render.projection import image_covariances

    in_camera = gaussians.means @ cam.viewmat[:3, :3].T + cam.viewmat[:3, 3]
    return image_covariances(gaussians, in_camera, cam)


def test_footprints_are_those_of_the_original():
    gaussians, cam = random_gaussians(40, 3, dtype=torch.float64), camera(dtype=torch.float64)
    seen = as_seen(gaussians, cam, (BENT,), None)
    torch.testing.assert_close(project(seen, cam), footprint_of_4dgs(gaussians, cam), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(project(gaussians, cam), project(seen, cam), rtol=0.1)


@pytest.mark.parametrize("make", [random_gaussians, mixed_gaussians])
def test_backends_draw_the_same_footprints_and_gradients(make):
    cam, results = camera(), []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float64)):
        g, inputs = leaves(make(60, 5).to(dtype))
        image = rasterize(g, cam, options=BENT, backend=backend).color
        image.square().sum().backward()
        grads = {name: v.grad.double() for name, v in inputs.items()}
        if "covars" in grads:  # only the symmetric part means anything
            grads["covars"] = (grads["covars"] + grads["covars"].mT) / 2
        results.append((image.detach().double(), grads))
    (image, grads), (expected, slopes) = results
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)
    for name, slope in slopes.items():
        torch.testing.assert_close(grads[name], slope, atol=1e-3 * slope.abs().max().item(), rtol=0)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_only_the_group_that_asks_is_drawn_so(backend):
    gaussians, cam = random_gaussians(120, 6), camera()
    groups = torch.arange(120) % 2
    whole = rasterize(gaussians, cam, groups=groups, options=(RasterOptions(), BENT), backend=backend)
    for k, options in enumerate((RasterOptions(), BENT)):
        alone = rasterize(gaussians[groups == k], cam, options=options, backend=backend)
        torch.testing.assert_close(whole.color[k], alone.color, atol=0 if backend == "native" else 1e-5, rtol=0)


def test_colours_are_looked_up_at_the_anchors():
    gaussians, cam = random_gaussians(30, 7), camera()
    anchors = gaussians.means + torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    seen = with_colors(replace(gaussians, anchors=anchors), cam)
    directions = torch.nn.functional.normalize(anchors - cam.centre, dim=-1)
    torch.testing.assert_close(
        harmonics.colors(seen.sh, directions), harmonics.colors(gaussians.sh, directions), rtol=1e-5, atol=1e-5
    )
    assert seen.anchors is None and seen.sh_degree == 0
    at_home = rasterize(replace(gaussians, anchors=gaussians.means), cam).color
    torch.testing.assert_close(at_home, rasterize(gaussians, cam).color, rtol=0, atol=1e-5)
    assert not torch.allclose(rasterize(replace(gaussians, anchors=anchors), cam).color, at_home, atol=1e-3)


def test_projection_alone_follows_the_same_rules():
    gaussians, cam = random_gaussians(30, 9), camera()
    anchors = gaussians.means + 1
    bent = project_native(replace(gaussians, anchors=anchors), cam, BENT)
    drawn = rasterize(replace(gaussians, anchors=anchors), cam, options=BENT, backend="native")
    assert torch.equal(bent.radii, drawn.radii)
    plain = project_native(gaussians, cam)
    seen = plain.radii[:, 0] > 0
    assert not torch.allclose(bent.colors[seen], plain.colors[seen], atol=1e-3)


def test_the_pose_learns_through_the_footprint():
    grads = []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float64)):
        gaussians, cam = random_gaussians(60, 5, dtype=dtype), camera(dtype=dtype)
        viewmat = cam.viewmat.clone().requires_grad_()
        anchors = (gaussians.means + 0.5).requires_grad_()
        seen = replace(gaussians, anchors=anchors)
        rasterize(seen, replace(cam, viewmat=viewmat), options=BENT, backend=backend).color.square().sum().backward()
        grads.append((viewmat.grad.double(), anchors.grad.double()))
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3 * expected.abs().max().item(), rtol=0)


def test_anchors_travel_with_their_gaussians():
    a, b = random_gaussians(3), random_gaussians(2, 1)
    joined = concatenate([a, replace(b, anchors=b.means + 1)])
    assert torch.equal(joined.anchors, torch.cat([a.means, b.means + 1]))
    assert torch.equal(joined[3:].anchors, b.means + 1)


def test_unknown_footprints_are_refused():
    with pytest.raises(ConfigError, match="footprint: expected camera or 4dgs"):
        RasterOptions(footprint="round")


@pytest.mark.parametrize(
    "numbers", [{"eps2d": -1.0}, {"eps2d": float("nan")}, {"near": 5.0, "far": 1.0}, {"near": -1.0}, {"far": float("nan")}]
)
def test_raster_options_without_meaning_are_refused(numbers):
    with pytest.raises(ConfigError, match="raster options: expected"):
        RasterOptions(**numbers)
