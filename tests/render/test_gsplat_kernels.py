"""The CUDA backend with gsplat's own kernels, run on the CPU: images, gradients, groups in one pass, training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from moegs.deform import get
from moegs.gaussians import Gaussians, covariances
from moegs.gaussians.densify import DensifyRule
from moegs.render import RasterOptions, backends, rasterize
from moegs.route import render_mixture, render_sparse
from moegs.train import (
    FitConfig,
    RefineConfig,
    RouteConfig,
    evaluate,
    expert_renderer,
    fit_expert,
    fit_router,
    mixture_renderer,
    refine_mixture,
)
from tests import gsplat_on_cpu
from tests.render import agreement
from tests.render.agreement import GROUP_OPTIONS, TAGS, every_order
from tests.render.scenes import camera, mixed_gaussians, random_gaussians
from tests.train.scenes import small_scene

assert_agree = partial(agreement.assert_agree, "gsplat", image=1e-5, whole_radii=True)
FORWARD, BACKWARD = "rasterize_to_pixels_3dgs_fwd", "rasterize_to_pixels_3dgs_bwd"


@pytest.fixture(scope="module", autouse=True)
def kernels(request):
    with pytest.MonkeyPatch.context() as patch:
        yield gsplat_on_cpu.use(patch, gsplat_on_cpu.folder(request))


@pytest.fixture
def passes(kernels, monkeypatch) -> list[str]:
    """Grows by the name of every pass of gsplat's rasteriser, forward and backward."""
    names: list[str] = []

    def count(name: str) -> None:
        kernel = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a: names.append(name) or kernel(*a))

    count(FORWARD)
    count(BACKWARD)
    return names


@pytest.mark.parametrize("features", [0, 3, 5, 13])
@pytest.mark.parametrize("compensate", [False, True])
def test_agrees_with_the_reference(features: int, compensate: bool):
    options = RasterOptions(eps2d=0.1, compensate=True) if compensate else RasterOptions()
    assert_agree(random_gaussians(150, features, degree=3), camera(37, 29), features=features, options=options)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_harmonics_of_every_degree_agree(degree: int):
    assert_agree(random_gaussians(60, degree, degree), camera())


def test_covariances_agree():
    gaussians = random_gaussians(80, 4)
    carried = Gaussians(gaussians.means, gaussians.opacities, gaussians.sh, covars=covariances(gaussians))
    assert_agree(carried, camera(), options=RasterOptions(eps2d=0.1, compensate=True))


def test_shapes_given_in_both_ways_agree():
    assert_agree(mixed_gaussians(90, 5), camera(), features=2)


def test_an_opaque_scene_stops_alike():
    gaussians = random_gaussians(200, 6)
    assert_agree(replace(gaussians, opacities=torch.full((200,), 0.9995), scales=gaussians.scales * 3), camera())


@every_order
@pytest.mark.parametrize("absgrad", [False, True])
def test_groups_agree_with_the_reference(tags, absgrad: bool):
    more = {"features": 4, "absgrad": absgrad}
    assert_agree(random_gaussians(150, 7), camera(), groups=tags(150), options=GROUP_OPTIONS, **more)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_group_without_gaussians_is_background(empty: int):
    tags = torch.tensor([k for k in range(3) if k != empty]).repeat(40)
    assert_agree(random_gaussians(80, 7), camera(), groups=tags, options=GROUP_OPTIONS)


def test_nothing_at_all_is_background():
    out = rasterize(random_gaussians(5)[:0], camera(), background=(0.2, 0.3, 0.4), backend="gsplat")
    assert torch.equal(out.color, torch.tensor([0.2, 0.3, 0.4]).expand_as(out.color)) and out.alpha.max() == 0


@every_order
def test_one_pass_over_groups_is_as_many_separate_ones(passes, tags):
    gaussians, features, tagged = random_gaussians(300), torch.rand(300, 4), tags(300)
    whole = rasterize(gaussians, camera(), groups=tagged, features=features, options=GROUP_OPTIONS, backend="gsplat")
    assert passes == [FORWARD]
    for k, options in enumerate(GROUP_OPTIONS):
        rows = tagged == k
        one = rasterize(gaussians[rows], camera(), features=features[rows], options=options, backend="gsplat")
        for name in ("color", "depth", "alpha", "features"):
            torch.testing.assert_close(getattr(whole, name)[k], getattr(one, name), atol=1e-5, rtol=0)
        assert torch.equal(whole.radii[rows], one.radii)


@pytest.fixture
def unwritten_memory_is_nan():
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_tiles_that_are_left_out_show_the_background(unwritten_memory_is_nan):
    assert torch.utils.deterministic.fill_uninitialized_memory
    tiles = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    assert_agree(random_gaussians(150, 8), camera(), groups=TAGS["mixed up"](150), options=GROUP_OPTIONS, tiles=tiles)


@pytest.mark.parametrize("compensate", [False, True])
def test_what_cannot_be_seen_is_not_counted_as_seen(compensate: bool):
    """Too faint, or thin as a needle, which compensation makes as faint; the footprint tells densification who was seen."""
    gaussians = random_gaussians(60, 9)
    faint, thin = torch.arange(60) % 3 == 0, torch.arange(60) % 3 == 1
    gaussians = replace(
        gaussians, opacities=torch.where(faint, 1 / 300, gaussians.opacities),
        scales=torch.where(thin[:, None], 1e-5, gaussians.scales),
    )  # fmt: skip
    options = RasterOptions(compensate=compensate)
    assert_agree(gaussians, camera(), options=options)
    radii = {b: rasterize(gaussians, camera(), options=options, backend=b).radii[:, 0] for b in ("gsplat", "reference")}
    for found in radii.values():
        assert not found[faint].any() and bool(found[thin].any()) != compensate and bool(found[~(faint | thin)].any())


PRIORS = ("polynomial", "interpolation", "hexplane", "embedding", "reformulation")
QUICK = FitConfig(
    steps=30, densify_every=8, idle=0.0, densify=DensifyRule(max_gaussians=60, grad_threshold=1e-5), sweep=None, surface=None
)


@pytest.fixture(scope="module")
def mixture():
    experts = {n: fit_expert(small_scene(), get(n).for_clip(4), replace(QUICK, steps=10), progress=False) for n in PRIORS}
    return fit_router(small_scene(), experts, RouteConfig(steps=10), progress=False)


def test_a_mixture_of_all_priors_renders_alike(mixture):
    place = small_scene().cameras[0]
    for render in (render_mixture, partial(render_sparse, min_gate=0.15)):
        drawn, wanted = (render(mixture, place, 0.3, backend=b) for b in ("gsplat", "reference"))
        for name in ("color", "gates", "images", "depths", "alphas", "maps"):
            torch.testing.assert_close(getattr(drawn, name), getattr(wanted, name), atol=1e-5, rtol=0)
    scores = [evaluate(mixture_renderer(mixture, backend=b), small_scene()).mean.psnr for b in ("gsplat", "reference")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.fixture
def on(monkeypatch):
    """Makes a backend the one that is chosen where none is named."""
    return lambda backend: monkeypatch.setattr(backends, "choose", lambda *_: backend)


@pytest.mark.parametrize("prior", PRIORS)
def test_experts_train_as_well(on, passes, prior: str):
    trained = {}
    for backend in ("reference", "gsplat"):
        assert not passes
        on(backend)
        trained[backend] = fit_expert(small_scene(), get(prior).for_clip(4), QUICK, progress=False)
    assert passes.count(BACKWARD) == QUICK.steps
    assert len(trained["gsplat"]) == len(trained["reference"]) > len(small_scene().cloud)
    untrained = fit_expert(small_scene(), get(prior).for_clip(4), replace(QUICK, steps=1), progress=False)
    before, *after = (evaluate(expert_renderer(e), small_scene()).mean.psnr for e in (untrained, *trained.values()))
    assert after[0] == pytest.approx(after[1], abs=0.05) and min(after) > before + 0.5


def test_a_mixture_learns_on_as_well(on, mixture):
    found = []
    for backend in ("gsplat", "reference"):
        on(backend)
        refined = refine_mixture(small_scene(), mixture, RefineConfig(steps=6), progress=False)
        found.append(evaluate(mixture_renderer(refined), small_scene()).mean.psnr)
    assert found[0] == pytest.approx(found[1], abs=0.02)
