"""Where priors start when points know their time, span and velocity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs import deform
from moegs.errors import DataError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, covariances


def _brief(n: int = 3000) -> PointCloud:
    g = torch.Generator().manual_seed(5)
    return PointCloud(
        torch.randn(n, 3, generator=g), torch.rand(n, 3, generator=g), torch.full((n,), 0.5), torch.full((n,), 0.25),
        torch.randn(n, 3, generator=g),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["interpolation", "polynomial", "reformulation"])
def test_points_that_are_there_briefly_start_as_gaussians_that_move_and_fade(name):
    cloud = _brief()
    prior = deform.get(name).for_clip(40)
    params = prior.init(cloud, torch.Generator().manual_seed(0))
    before, now, after = (prior.deform(params, t) for t in (0.49, 0.5, 0.51))
    assert torch.allclose(now.means, cloud.points, atol=1e-5)
    slant = (after.means - before.means) / 0.02 - cloud.velocities
    assert torch.linalg.vector_norm(slant, dim=1).median() < 0.05
    faded = prior.deform(params, 0.95).opacities < 0.5 * now.opacities
    assert faded.float().mean() > 0.9  # strays start very large


def test_brief_points_of_unknown_time_have_a_size_too():
    cloud = _brief(50)
    cloud = PointCloud(cloud.points, cloud.colors, torch.full((50,), torch.nan), cloud.spans)
    scales = deform.get("polynomial").for_clip(40).init(cloud)["gaussian.scales"]
    alone = deform.get("polynomial").for_clip(40).init(PointCloud(cloud.points, cloud.colors))["gaussian.scales"]
    assert torch.equal(scales, alone)


@pytest.mark.parametrize("name", ["hexplane", "embedding"])
def test_priors_without_birth_start_from_points_of_all_times(name):
    cloud = _brief()
    params = deform.get(name).for_clip(40).init(cloud, torch.Generator().manual_seed(0))
    assert torch.equal(params["gaussian.means"], cloud.points)


@pytest.mark.parametrize("name", ["interpolation", "polynomial", "reformulation"])
def test_points_of_unknown_time_start_as_if_the_cloud_had_no_times(name):
    cloud = _brief(50)
    prior, unknown = deform.get(name).for_clip(40), torch.full((50,), torch.nan)
    timeless = PointCloud(cloud.points, cloud.colors)
    marked = PointCloud(cloud.points, cloud.colors, unknown, torch.ones(50), torch.zeros(50, 3))
    started = [prior.init(c, torch.Generator().manual_seed(0)) for c in (timeless, marked)]
    assert all(torch.allclose(v, started[1][k], atol=1e-6) for k, v in started[0].items())


def _looks(n: int) -> Gaussians:
    g = torch.Generator().manual_seed(6)
    return Gaussians(
        torch.zeros(n, 3), 0.1 + 0.8 * torch.rand(n, generator=g), 0.3 * torch.randn(n, 4, 3, generator=g),
        torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=-1),
        0.05 + 0.3 * torch.rand(n, 3, generator=g),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["embedding", "hexplane", "interpolation", "polynomial", "reformulation"])
@pytest.mark.parametrize("moving", [False, True])
def test_points_with_looks_start_as_the_gaussians_they_are(name, moving):
    n, brief = 40, _brief(40)
    looks = _looks(n)
    cloud = PointCloud(brief.points, brief.colors, brief.times, brief.spans, brief.velocities if moving else None, looks)
    prior = deform.get(name).for_clip(40)
    now = prior.deform(prior.init(cloud, torch.Generator().manual_seed(0)), 0.5)
    torch.testing.assert_close(now.means, cloud.points, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(covariances(now), covariances(looks), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(now.opacities, looks.opacities, atol=1e-3, rtol=1e-3)
    k = min(now.sh.shape[1], 4)
    torch.testing.assert_close(now.sh[:, :k], looks.sh[:, :k], atol=1e-5, rtol=1e-5)
    assert now.sh[:, 4:].abs().max() == 0 if now.sh.shape[1] > 4 else True


def test_looks_have_axes_and_are_as_many_as_the_points():
    cloud, looks = _brief(5), _looks(5)
    known = (cloud.points, cloud.colors, None, None, None)
    covariant = Gaussians(looks.means, looks.opacities, looks.sh, covars=covariances(looks))
    for wrong in (looks[:4], covariant, looks.to(torch.float64)):
        with pytest.raises(ShapeError, match="looks"):
            PointCloud(*known, wrong)
    assert len(PointCloud(*known, looks)[torch.tensor([3, 1])].looks) == 2
    broken = replace(looks, scales=looks.scales.clone().index_fill_(0, torch.tensor([2]), torch.nan))
    with pytest.raises(DataError, match="looks.scales"):
        deform.get("polynomial").for_clip(40).init(PointCloud(*known, broken))
