"""Adoption: who comes, who goes again, and that they look the same in another prior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from moegs.data import View
from moegs.deform import get
from moegs.distill import DistillConfig, Release, adopt, as_cloud, distill
from moegs.distill.distill import Lesson
from moegs.errors import ConfigError, DataError
from moegs.expert import Expert, render_expert
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params, count
from moegs.render import rasterize
from moegs.route import Mixture, VolumePixelRouter
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


def test_others_come_beside_a_students_own():
    own = expert(scattered(20, 0), "polynomial")
    mixture = mixture_of(own=own, other=expert(scattered(30, 1), "interpolation", opacity=0.9))
    start = adopt(mixture, "own", own, views(), FRAMES, 0.3)
    assert count(start) == 26 and strangers(start, own) == 6
    assert torch.cdist(own.params["gaussian.means"].double(), start["gaussian.means"].double()).amin(1).max() < 1e-7


def test_nobody_comes_whom_no_view_shows():
    own = expert(scattered(20, 0), "polynomial", opacity=0.9)
    mixture = mixture_of(own=own, other=expert(scattered(20, 0) + 100.0, "interpolation"))
    start = adopt(mixture, "own", own, views(), FRAMES, 0.5)
    assert strangers(start, own) == 0 and all(torch.equal(start[k], v) for k, v in own.params.items())


def test_those_go_whom_the_picture_misses_least():
    student = expert(scattered(20, 0), "polynomial", opacity=0.9)
    faint = torch.arange(20) % 3 == 0
    student.params["gaussian.opacities"][faint] = torch.logit(torch.tensor(0.006))
    release = Release(step=5, left=14, views=views())
    assert release(student, 4) is None and release(student, 6) is None
    drawn = torch.get_rng_state()
    mask = release(student, 5)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert mask is not None and mask.sum() == 14 and not (mask & faint).sum() > 1
    assert Release(step=5, left=20, views=[])(student, 5) is None


def test_those_come_whom_the_mixture_trusts():
    """Two experts with the same Gaussians in other places; the router is for the second."""
    own = expert(scattered(20, 0), "polynomial", opacity=0.01)
    givers = {name: expert(scattered(20, seed), "interpolation") for name, seed in (("doubted", 1), ("trusted", 2))}
    mixture = mixture_of(own=own, **givers)
    with torch.no_grad():
        mixture.router.base[20:40], mixture.router.base[40:] = -8.0, 8.0
    start = adopt(mixture, "own", own, views(), FRAMES, 0.5)["gaussian.means"]
    near = {n: (torch.cdist(start, e.at(0.5).means).amin(1) < 0.02).sum().item() for n, e in givers.items()}
    assert near["trusted"] >= 8 and near["doubted"] == 0


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


@pytest.mark.parametrize("into", ["interpolation", "polynomial", "reformulation"])
@pytest.mark.parametrize("giver", ["interpolation", "polynomial", "reformulation"])
def test_brief_ones_stay_as_brief(into, giver):
    before = expert(scattered(12, 5), giver, spans=0.3, drift=0.3)
    prior = replace(get(into).for_clip(40), **({"var_pad": 0.0} if into == "interpolation" else {}))
    cloud = as_cloud(before, torch.ones(12, dtype=torch.bool), 40)
    after = Expert(prior, prior.init(cloud, torch.Generator().manual_seed(0)))
    old, new = (torch.stack([e.at(i / 40).opacities.mean() for i in range(40)]) for e in (before, after))
    assert old.max() > 0.5
    time = torch.arange(40) / 40
    widths = [((o * (time - 0.5) ** 2).sum() / o.sum()).sqrt().item() for o in (old, new)]
    assert widths[1] == pytest.approx(widths[0], rel=0.12) and new.max() == pytest.approx(old.max().item(), rel=0.05)


def test_newcomers_are_splines_even_where_the_student_began_without():
    own = expert(scattered(20, 0), "interpolation", opacity=0.01)
    began = replace(own, prior=replace(own.prior, dynamic=0.0))
    start = adopt(mixture_of(own=began, other=expert(scattered(20, 1), "polynomial")), "own", began, views(), FRAMES, 0.4)
    assert count(start) == 28 and len(start["gaussian.linear.means"]) == 0
    linear = {k: v for k, v in replace(own.prior, dynamic=0.0).init(small_scene().cloud).items() if "linear" in k}
    still = Expert(began.prior, linear | {"gaussian.linear.opacities": linear["gaussian.linear.opacities"] - 5.0})
    with pytest.raises(ConfigError, match="'spline' population"):
        adopt(mixture_of(own=still, other=expert(scattered(20, 1), "polynomial")), "own", still, views(), FRAMES, 0.4)


def outlying(points: torch.Tensor) -> torch.Tensor:
    """Two points far away, as a wide background has them."""
    return torch.cat([points, points.mean(0) + torch.tensor([[12.0, 0, 0], [-12.0, 0, 0]])])


def test_newcomers_live_in_the_students_unit_of_time():
    own = expert(outlying(scattered(20, 0)), "reformulation", opacity=0.01)
    other = expert(scattered(20, 1), "polynomial", spans=0.3, drift=0.3)
    start = adopt(mixture_of(own=own, other=other), "own", own, views(), FRAMES, 0.4)
    student = replace(own, params=start)
    new = torch.sigmoid(start["gaussian.opacities"]) > 0.3
    assert new.sum() == 8
    early, now, late = (student.at(t)[new] for t in (0.0, 0.5, 0.9))
    assert now.opacities.min() > 0.5 > max(early.opacities.max(), late.opacities.max())
    nearest = torch.cdist(now.means, other.at(0.5).means).amin(1)
    assert nearest.max() < 0.02


@pytest.mark.parametrize("into", ["embedding", "hexplane"])
def test_newcomers_stand_right_in_a_student_whose_network_moves_things(into):
    own, other = expert(scattered(20, 0), into, opacity=0.01), expert(scattered(20, 1), "polynomial")
    generator = torch.Generator().manual_seed(0)
    shaken = {k: v for k, v in own.params.items() if k.startswith("mlp.") and "means" in k}
    shaken = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in shaken.items()}
    own = replace(own, params=own.params | shaken)
    start = adopt(mixture_of(own=own, other=other), "own", own, views(), FRAMES, 0.4)
    student, settled = replace(own, params=start), other.at(0.5)
    middle = as_cloud(other, torch.ones(20, dtype=torch.bool), FRAMES).times
    new = torch.sigmoid(start["gaussian.opacities"]) > 0.3
    assert new.sum() == 8 and middle.std() < 0.01
    now = student.at(round(float(middle.mean()) * FRAMES) / FRAMES)[new]
    wrong = torch.cdist(now.means, settled.means).amin(1)
    moved = torch.cdist(start["gaussian.means"][new], settled.means).amin(1)  # by the network
    assert moved.min() > 0.02 and (wrong < 0.5 * moved).all()


def test_who_is_brief_goes_to_no_prior_that_cannot_fade():
    own, brief = expert(scattered(20, 0), "hexplane", opacity=0.01), expert(scattered(20, 1), "polynomial", spans=0.3)
    start = adopt(mixture_of(own=own, other=brief), "own", own, views(), FRAMES, 0.4)
    assert all(torch.equal(start[k], v) for k, v in own.params.items())


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
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="adopt"):
            DistillConfig(adopt=share)


def test_a_pruned_mixture_teaches_its_whole_expert(tmp_path):
    """The student need not have as many Gaussians as the mixture's expert of its name."""
    whole = expert(scattered(20, 0), "polynomial", opacity=0.05)
    small = expert(scattered(10, 0), "polynomial", opacity=0.05)
    mixture = mixture_of(own=small, other=expert(scattered(30, 1), "interpolation", opacity=0.9))
    config = DistillConfig(fit=FitConfig(steps=2))
    taught = distill(mixture, small_scene(), "own", config, expert=whole, cache=tmp_path, progress=False)
    stayed = torch.cdist(taught.params["gaussian.means"], whole.params["gaussian.means"]).amin(1) < 0.02
    assert len(taught) == 20 and (~stayed).sum() == 10


def test_nothing_is_adopted_that_is_not_asked_for(tmp_path):
    own, other = expert(scattered(20, 0), "polynomial", opacity=0.05), expert(scattered(20, 1), "interpolation")
    mixture = mixture_of(own=own, other=other)
    rates = replace(FitConfig(steps=1), sweep=None, surface=None)
    taught = [
        distill(mixture, small_scene(), "own", DistillConfig(adopt=a, fit=rates), cache=tmp_path, progress=False)
        for a in (0.0, 0.4)
    ]
    before = own.params["gaussian.means"]
    moved = [(torch.cdist(t.params["gaussian.means"], before).amin(1) > 0.02).sum().item() for t in taught]
    assert moved == [0, 8]


@pytest.mark.parametrize("better", ["own", "other"])
def test_the_better_ones_stay(tmp_path, better):
    """Of two experts in the same places one is opaque: whoever it is, its Gaussians are those that are left."""
    faint, opaque = (expert(scattered(20, 0), "polynomial", opacity=o) for o in (0.03, 0.9))
    own, other = (opaque, faint) if better == "own" else (faint, opaque)
    config = DistillConfig(adopt=1.0, fit=FitConfig(steps=3))
    taught = distill(mixture_of(own=own, other=other), small_scene(), "own", config, cache=tmp_path, progress=False)
    assert len(taught) == 20 and torch.sigmoid(taught.params["gaussian.opacities"]).min() > 0.5


def test_a_run_resumes_on_either_side_of_the_release(tmp_path, monkeypatch):
    own, other = expert(scattered(20, 0), "polynomial", opacity=0.3), expert(scattered(20, 1), "interpolation")
    fit = FitConfig(steps=20, checkpoint_every=2)

    def taught(**how: Any) -> Params:
        config = DistillConfig(fit=fit)
        return distill(
            mixture_of(own=own, other=other), small_scene(), "own", config, cache=tmp_path, progress=False, **how
        ).params

    whole = taught()
    loss, done = Lesson.__call__, []
    for cut in (5, 12):  # the release is after step 7

        def failing(self: Lesson, *args: Any, cut: int = cut) -> torch.Tensor:
            done.append(1)
            if len(done) > cut:
                raise KeyboardInterrupt
            return loss(self, *args)

        done.clear()
        monkeypatch.setattr(Lesson, "__call__", failing)
        with pytest.raises(KeyboardInterrupt):
            taught(out=tmp_path / str(cut))
        monkeypatch.setattr(Lesson, "__call__", loss)
        resumed = taught(out=tmp_path / str(cut), resume=True)
        assert count(whole) == 20 and all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_gaussians_of_the_mixture_stay_as_they_are():
    mixture = mixture_of(own=expert(scattered(9, 0), "polynomial", opacity=0.02), other=expert(scattered(9, 1), "hexplane"))
    before = {n: {k: v.clone() for k, v in e.params.items()} for n, e in mixture.experts.items()}
    start = adopt(mixture, "own", mixture.experts["own"], views(), FRAMES, 0.5)
    start["gaussian.means"].add_(1.0)
    assert all(torch.equal(mixture.experts[n].params[k], v) for n, p in before.items() for k, v in p.items())
    assert rasterize(mixture.experts["own"].at(0.5), small_scene().cameras[0]).alpha.isfinite().all()
