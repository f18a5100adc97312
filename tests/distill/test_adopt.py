"""Adoption: who goes, who comes, and that they look the same in another prior."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.data import View
from moegs.deform import get
from moegs.distill import DistillConfig, adopt, as_cloud, distill, gated_shares
from moegs.errors import ConfigError, DataError
from moegs.expert import Expert, render_expert
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import count
from moegs.render import rasterize
from moegs.route import Mixture, VolumePixelRouter, render_mixture
from moegs.train import FitConfig
from tests.train.scenes import small_scene

FRAMES = 8


def expert(points: torch.Tensor, name: str, *, opacity: float = 0.6, spans: float = 1.0, drift: float = 0.0) -> Expert:
    """Gaussians of one opacity on points, there around the middle of the clip."""
    n = len(points)
    looks = Gaussians(
        points, torch.full((n,), opacity), torch.full((n, 1, 3), 0.5),
        torch.tensor([1.0, 0, 0, 0]).repeat(n, 1), torch.tensor([0.2, 0.1, 0.05]).repeat(n, 1),
    )  # fmt: skip
    ones = torch.ones(n)
    cloud = PointCloud(points, torch.full((n, 3), 0.5), 0.5 * ones, spans * ones, drift * torch.ones(n, 3), looks)
    prior = get(name).for_clip(FRAMES)
    return Expert(prior, prior.init(cloud, torch.Generator().manual_seed(0)))


def scattered(n: int, seed: int) -> torch.Tensor:
    return small_scene().cloud.points.mean(0) + 0.6 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def mixture_of(**experts: Expert) -> Mixture:
    router = VolumePixelRouter([len(e) for e in experts.values()], generator=torch.Generator().manual_seed(0))
    return Mixture(experts, router)


def views() -> list[View]:
    scene = small_scene()
    return [scene.view(camera, frame) for camera in scene.train for frame in (0, 2)]


def strangers(params: dict, own: Expert) -> int:
    """How many centres are none of the expert's own."""
    old, new = own.params["gaussian.means"], params["gaussian.means"]
    return int((torch.cdist(new.double(), old.double()).amin(1) > 1e-7).sum())


def test_faint_ones_go_for_those_that_the_mixture_shows():
    half = scattered(20, 0)
    own = expert(half, "polynomial")
    faint = torch.arange(20) < 8
    own.params["gaussian.opacities"][faint] = torch.logit(torch.tensor(0.006))
    mixture = mixture_of(own=own, other=expert(scattered(30, 1), "interpolation", opacity=0.9))
    start = adopt(mixture, "own", own, views(), FRAMES, 0.3)
    assert count(start) == 20 and strangers(start, own) == 6
    kept = torch.cdist(own.params["gaussian.means"].double(), start["gaussian.means"].double()).amin(1) < 1e-7
    assert kept[~faint].all() and kept[faint].sum() == 2


def test_nobody_goes_for_those_that_add_less():
    own = expert(scattered(20, 0), "polynomial", opacity=0.9)
    mixture = mixture_of(own=own, other=expert(scattered(20, 0) + 100.0, "interpolation"))
    start = adopt(mixture, "own", own, views(), FRAMES, 0.5)
    assert strangers(start, own) == 0 and all(torch.equal(start[k], v) for k, v in own.params.items())


def test_shares_are_what_a_gaussian_adds_to_the_blend():
    """With one Gaussian an expert, its share is the sum of gate times alpha over the views."""
    mixture = mixture_of(a=expert(scattered(1, 3), "polynomial"), b=expert(scattered(1, 4), "interpolation"))
    shares = gated_shares(mixture, mixture.experts, views())
    for k, name in enumerate(mixture.experts):
        shown = [render_mixture(mixture, v.camera, v.time) for v in views()]
        expected = sum((r.gates[k] * r.alphas[k]).sum() for r in shown)
        torch.testing.assert_close(shares[name].sum(), expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("into", ["hexplane", "interpolation", "polynomial", "reformulation"])
@pytest.mark.parametrize("giver", ["polynomial", "reformulation"])
def test_who_comes_looks_as_before(into, giver):
    before = expert(scattered(12, 5), giver, drift=0.3)
    cloud = as_cloud(before, torch.ones(12, dtype=torch.bool), FRAMES)
    prior = get(into).for_clip(FRAMES)
    after = Expert(prior, prior.init(cloud, torch.Generator().manual_seed(0)))
    camera, t = small_scene().cameras[1], float(cloud.times.mean())
    old, new = render_expert(before, camera, t).color, render_expert(after, camera, t).color
    assert old.max() > 0.3 and (old - new).abs().mean() < 0.01 * old.max()


def test_places_times_spans_and_drift_are_those_of_the_motion():
    rows = torch.arange(12) < 5
    always, brief = (
        as_cloud(expert(scattered(12, 5), "polynomial", spans=s, drift=0.3), rows, 40) for s in (1.0, 0.2)
    )
    for cloud in (always, brief):
        assert len(cloud) == 5
        torch.testing.assert_close(cloud.velocities, torch.full((5, 3), 0.3), atol=1e-3, rtol=1e-3)
        shift = 0.3 * (cloud.times - 0.5)[:, None]  # points are where they are at t = 0.5
        torch.testing.assert_close(cloud.points, scattered(12, 5)[rows] + shift, atol=1e-3, rtol=1e-3)
    assert (brief.times - 0.5).abs().max() < 0.02 and (brief.spans < 0.5).all() and (brief.spans > 0.1).all()
    assert (brief.spans < always.spans).all()


def test_experts_that_decode_colours_give_none():
    own, coded = expert(scattered(20, 0), "polynomial", opacity=0.01), get("polynomial").for_clip(FRAMES)
    coded = replace(coded, color="features")
    other = Expert(coded, coded.init(small_scene().cloud, torch.Generator().manual_seed(0)), decoder=coded.decoder)
    start = adopt(mixture_of(own=own, other=other), "own", own, views(), FRAMES, 0.5)
    assert all(torch.equal(start[k], v) for k, v in own.params.items())


def test_says_what_does_not_fit():
    own, other = expert(scattered(20, 0), "polynomial", opacity=0.01), expert(scattered(20, 1), "interpolation")
    mixture = mixture_of(own=own, other=other)
    with pytest.raises(DataError, match="view"):
        adopt(mixture, "own", own, [], FRAMES, 0.5)
    odd = replace(own, params=own.params | {"gaussian.lives": torch.tensor([[0.0, 1.0]]).repeat(20, 1)})
    with pytest.raises(ConfigError, match=r"gaussian\.lives.*adopt = 0"):
        adopt(mixture, "own", odd, views(), FRAMES, 0.5)
    for share in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="adopt"):
            DistillConfig(adopt=share)


def test_a_pruned_mixture_teaches_its_whole_expert(tmp_path):
    """The student need not have as many Gaussians as the mixture's expert of its name."""
    whole = expert(scattered(20, 0), "polynomial", opacity=0.05)
    small = expert(scattered(10, 0), "polynomial", opacity=0.05)
    mixture = mixture_of(own=small, other=expert(scattered(30, 1), "interpolation", opacity=0.9))
    config = DistillConfig(fit=FitConfig(steps=2))
    taught = distill(mixture, small_scene(), "own", config, expert=whole, cache=tmp_path, progress=False)
    assert len(taught) == 20 and strangers(taught.params, whole) >= 6


def test_nothing_is_adopted_that_is_not_asked_for(tmp_path):
    own, other = expert(scattered(20, 0), "polynomial", opacity=0.05), expert(scattered(20, 1), "interpolation")
    mixture = mixture_of(own=own, other=other)
    rates = replace(FitConfig(steps=1), sweep=None)
    taught = [
        distill(mixture, small_scene(), "own", DistillConfig(adopt=a, fit=rates), cache=tmp_path, progress=False)
        for a in (0.0, 0.4)
    ]
    before = own.params["gaussian.means"]
    moved = [(torch.cdist(t.params["gaussian.means"], before).amin(1) > 0.02).sum().item() for t in taught]
    assert moved == [0, 8]


def test_gaussians_of_the_mixture_stay_as_they_are():
    mixture = mixture_of(own=expert(scattered(9, 0), "polynomial", opacity=0.02), other=expert(scattered(9, 1), "hexplane"))
    before = {n: {k: v.clone() for k, v in e.params.items()} for n, e in mixture.experts.items()}
    start = adopt(mixture, "own", mixture.experts["own"], views(), FRAMES, 0.5)
    start["gaussian.means"].add_(1.0)
    assert all(torch.equal(mixture.experts[n].params[k], v) for n, p in before.items() for k, v in p.items())
    assert rasterize(mixture.experts["own"].at(0.5), small_scene().cameras[0]).alpha.isfinite().all()
