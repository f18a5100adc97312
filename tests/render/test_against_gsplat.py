"""The reference projection and harmonics against gsplat's own torch functions, and the keywords that we call gsplat with."""

from __future__ import annotations

import ast
import inspect

import pytest
import torch

from moegs.errors import BackendError
from moegs.gaussians import covariances, harmonics
from moegs.render import RasterOptions, gsplat_backend, rasterize
from moegs.render.projection import project
from moegs.render.types import RasterInputs
from tests.render.scenes import camera, leaves, random_gaussians

pytest.importorskip("gsplat", reason="gsplat is not installed (pip install 'moegs[gpu]')")
pytestmark = pytest.mark.filterwarnings("ignore")


def ours_and_theirs(options: RasterOptions):
    from gsplat.cuda._torch_impl import _fully_fused_projection

    cam = camera(dtype=torch.float64)
    gaussians, tensors = leaves(random_gaussians(60, dtype=torch.float64))
    ours = project(RasterInputs(gaussians, cam, (options,), torch.zeros(1, 3, dtype=torch.float64)))
    other, other_tensors = leaves(random_gaussians(60, dtype=torch.float64))
    theirs = _fully_fused_projection(
        other.means, covariances(other), cam.viewmat[None], cam.K[None], cam.width, cam.height, eps2d=options.eps2d,
        near_plane=cam.near, far_plane=cam.far, calc_compensations=options.compensate,
    )  # fmt: skip
    return ours, tensors, theirs, other, other_tensors, cam


@pytest.mark.parametrize("options", [RasterOptions(), RasterOptions(eps2d=0.1, compensate=True)])
def test_projection_values_and_gradients(options: RasterOptions):
    ours, tensors, (_, means2d, depths, conics, compensation), other, other_tensors, _ = ours_and_theirs(options)
    index = ours.index
    opacities = other.opacities[index] * (compensation[0, index] if options.compensate else 1)
    assert len(index) > 20
    for mine, theirs in (
        (ours.means2d, means2d[0, index]), (ours.depths, depths[0, index]), (ours.conics, conics[0, index]),
        (ours.opacities, opacities),
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs)
    weights = torch.rand(len(index), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (weights * (ours.means2d.sum(1) + ours.depths + ours.conics.sum(1) + ours.opacities)).sum().backward()
    theirs_sum = means2d[0, index].sum(1) + depths[0, index] + conics[0, index].sum(1) + opacities
    (weights * theirs_sum).sum().backward()
    for name in ("means", "quats", "scales", "opacities"):
        torch.testing.assert_close(tensors[name].grad, other_tensors[name].grad)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics(degree: int):
    from gsplat.cuda._torch_impl import _spherical_harmonics

    g = torch.Generator().manual_seed(degree)
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=g, dtype=torch.float64), dim=-1)
    sh = torch.randn(40, (degree + 1) ** 2, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(harmonics.evaluate(sh, directions), _spherical_harmonics(degree, directions, sh))


def test_every_keyword_that_we_use_exists():
    """The argument lists of gsplat grow between versions; ours must stay a subset."""
    import gsplat

    tree = ast.parse(inspect.getsource(gsplat_backend))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    ours = [c for c in calls if isinstance(c.func.value, ast.Name) and c.func.value.id == "kernels"]
    assert len(ours) >= 5
    for call in ours:
        assert not call.args
        known = inspect.signature(getattr(gsplat, call.func.attr)).parameters
        assert {k.arg for k in call.keywords} <= set(known), call.func.attr


def test_cpu_tensors_are_refused_with_advice():
    with pytest.raises(BackendError, match="expected float32 on CUDA"):
        rasterize(random_gaussians(3), camera(), backend="gsplat")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_one_pass_over_groups_is_as_many_separate_ones_on_a_gpu():
    gaussians, cam, tags = random_gaussians(300).to("cuda"), camera().to("cuda"), torch.arange(300, device="cuda") % 3
    features = torch.rand(300, 4, generator=torch.Generator().manual_seed(0)).cuda()
    options = (RasterOptions(), RasterOptions(eps2d=0.1, compensate=True), RasterOptions())
    whole = rasterize(gaussians, cam, groups=tags, features=features, options=options, backend="gsplat")
    for k, own in enumerate(options):
        rows = tags == k
        one = rasterize(gaussians[rows], cam, features=features[rows], options=own, backend="gsplat")
        for name in ("color", "depth", "alpha", "features"):
            torch.testing.assert_close(getattr(whole, name)[k], getattr(one, name), atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_image_and_gradients_on_a_gpu():
    results = []
    for device, backend in (("cpu", "reference"), ("cuda", "gsplat")):
        gaussians, tensors = leaves(random_gaussians(200).to(device))
        tags = (torch.arange(200) % 3).to(device)
        ones = torch.ones(200, 3, device=device)
        out = rasterize(gaussians, camera().to(device), groups=tags, features=ones, backend=backend)
        (out.color.square().sum() + out.features.sum() + out.depth.sum()).backward()
        results.append((out.color.cpu(), {k: v.grad.cpu() for k, v in tensors.items()}))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-4, rtol=0)
    for name, grad in results[0][1].items():
        assert (grad - results[1][1][name]).norm() <= 1e-3 * grad.norm(), name
