"""Clone, split, prune and reset over raw parameters, and what follows the Gaussians."""

from __future__ import annotations

import torch

from moegs.deform import get
from moegs.gaussians import PointCloud, count, densify, join
from moegs.gaussians.densify import DensifyRule


def expert(n: int = 6):
    g = torch.Generator().manual_seed(0)
    cloud = PointCloud(torch.rand(n, 3, generator=g), torch.rand(n, 3, generator=g), None)
    prior = get("polynomial").for_clip(8)
    return prior, prior.init(cloud, g)


def grow(score, rule, n: int = 6):
    prior, params = expert(n)
    params["gaussian.scales"] = torch.full((n, 3), 0.001).log()
    params["gaussian.scales"][0] = torch.tensor(0.5).log()
    survivors, spawned, lineage = densify.grow(
        params, prior.deform(params, 0.5), score, rule, 1.0, move=prior.moved, shrink=prior.shrunk,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    return params, survivors, spawned, lineage


def test_large_ones_are_split_and_small_ones_cloned():
    score = torch.tensor([1.0, 1.0, 0, 0, 0, 0])
    params, survivors, spawned, lineage = grow(score, DensifyRule(grad_threshold=0.5))
    assert count(survivors) == 5 and count(spawned) == 3
    assert lineage[""].tolist() == [1, 2, 3, 4, 5, -1, -1, -1]
    assert torch.equal(spawned["gaussian.means"][0], params["gaussian.means"][1])
    halves = spawned["gaussian.scales"][1:].exp()
    torch.testing.assert_close(halves, torch.full((2, 3), 0.5 / 1.6))
    assert not torch.equal(spawned["gaussian.means"][1], spawned["gaussian.means"][2])


def test_the_cap_is_hard_and_prefers_the_steepest():
    score = torch.tensor([0.0, 3.0, 1.0, 2.0, 4.0, 0.0])
    _, survivors, spawned, _ = grow(score, DensifyRule(grad_threshold=0.5, max_gaussians=8))
    assert count(survivors) + count(spawned) == 8
    joined = join([survivors, spawned])
    assert torch.equal(joined["gaussian.means"][6], survivors["gaussian.means"][1])
    assert torch.equal(joined["gaussian.means"][7], survivors["gaussian.means"][4])
    _, survivors, spawned, _ = grow(score, DensifyRule(grad_threshold=0.5, max_gaussians=3))
    assert count(survivors) == 6 and count(spawned) == 0


def test_moments_follow_their_gaussians():
    values = torch.tensor([[1.0], [2.0], [3.0]])
    assert densify.follow(values, torch.tensor([2, -1, 0])).tolist() == [[3.0], [0.0], [1.0]]
    assert densify.follow(values[:0], torch.tensor([-1])).tolist() == [[0.0]]


def test_unhealthy_gaussians_are_found():
    prior, params = expert()
    params["gaussian.opacities"][0] = -20
    params["gaussian.scales"][1] = 5.0
    params["gaussian.means"][2] = float("nan")
    healthy = densify.healthy(params, prior.deform(params, 0.5), DensifyRule(), extent=1.0)
    assert healthy.tolist() == [False, False, False, True, True, True]


def test_who_is_faint_now_but_not_always_is_healthy():
    prior, params = expert()
    params["gaussian.opacities"][:2] = -20
    best = torch.tensor([0.5, 0, 0, 0, 0, 0])
    healthy = densify.healthy(params, prior.deform(params, 0.5), DensifyRule(), extent=1.0, best=best)
    assert healthy.tolist() == [True, False, True, True, True, True]


def test_offsets_have_the_gaussians_own_covariance():
    prior, params = expert(1)
    params["gaussian.scales"] = torch.tensor([[0.1, 0.5, 1.0]]).log()
    params["gaussian.quats"] = torch.tensor([[0.9, 0.1, -0.3, 0.2]])
    now = prior.deform(params, 0.5)[torch.zeros(40_000, dtype=torch.long)]
    from moegs.gaussians import Gaussians, covariances

    packed = Gaussians(now.means, now.opacities, now.sh, covars=covariances(now))
    for gaussians in (now, packed):
        offsets = densify.sample_offsets(gaussians, torch.Generator().manual_seed(0))
        torch.testing.assert_close(offsets.T.cov(), covariances(now)[0], atol=0.03, rtol=0)
