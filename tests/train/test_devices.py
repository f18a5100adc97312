"""Everything that trains keeps its tensors where it is told to: held against a device that refuses to mix with the CPU.

That is a made-up one, and CUDA where there is a GPU with gsplat.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from moegs.data import load_scene, synthesize
from moegs.deform import get
from moegs.distill import DistillConfig, distill, retrain
from moegs.errors import ShapeError
from moegs.gaussians.densify import DensifyRule
from moegs.prune import CRITERIA, prune_and_refit
from moegs.render import backends, rasterize
from moegs.report import mixture_sheet, paper
from moegs.report.geometry import score_depth, side_by_side
from moegs.route import RouterConfig, fuse, render_mixture, render_sparse, save_mixture
from moegs.train import (
    FitConfig,
    RefineConfig,
    RouteConfig,
    evaluate,
    fit,
    fit_expert,
    fit_router,
    mixture_renderer,
    refine,
    refine_mixture,
    route,
)
from moegs.train.select import SelectConfig, rank_subsets
from moegs.train.views import sample_views
from moegs.train.volume import fit_volume_router
from moegs.train.yardsticks import fewest_tiles, yardsticks
from tests import elsewhere, gsplat_on_cpu
from tests.train.interrupt import stop_after
from tests.train.scenes import moving, small_scene

CROWDED = DensifyRule(max_gaussians=60, grad_threshold=1e-5)  # more want to grow than there is room for
QUICK = FitConfig(
    steps=6, densify_every=2, idle=0.0, densify=CROWDED, checkpoint_every=3, sweep=None, surface=None
)
PRIORS = ("polynomial", "interpolation", "hexplane", "embedding", "reformulation")


@pytest.fixture(scope="module", params=["elsewhere", "elsewhere with gsplat", "cuda"])
def device(request):
    if request.param == "cuda":
        if not torch.cuda.is_available() or find_spec("gsplat") is None:
            pytest.skip("needs a CUDA GPU and gsplat")
        yield torch.device("cuda")
        return
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "elsewhere with gsplat":
            there = elsewhere.device()
            gsplat_on_cpu.use(patch, gsplat_on_cpu.folder(request), elsewhere.run)
            choose = backends.choose
            patch.setattr(backends, "choose", lambda d, dtype: "gsplat" if d.type == there.type else choose(d, dtype))
        yield elsewhere.device()


def assert_alike(found, wanted):
    """The same bits, but for sums on a GPU, which come in any order: there the kind alone."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].device == value.device and found[name].shape == value.shape
        assert value.device.type == "cuda" or torch.equal(found[name].cpu(), value.cpu())


@pytest.fixture(scope="module")
def experts(device):
    scene = small_scene()
    return {n: fit_expert(scene, get(n).for_clip(4), QUICK, device=device, progress=False) for n in PRIORS[:3:2]}


@pytest.fixture(scope="module")
def mixture(experts):
    return fit_router(small_scene(), experts, RouteConfig(steps=3), progress=False)


def test_the_device_refuses_to_mix(device):
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=device) + torch.ones(3)
    with pytest.raises(RuntimeError, match="device"):
        torch.rand(3, device=device, generator=torch.Generator())
    assert torch.equal((torch.ones(3, device=device) + 1).cpu(), torch.full((3,), 2.0))


def test_the_backend_is_the_one_for_the_device(device, request):
    render = rasterize(moving(0.5).to(device), small_scene().cameras[0])
    assert render.backend == ("reference" if request.node.callspec.params["device"] == "elsewhere" else "gsplat")


def test_what_lies_on_another_device_is_named(device):
    there, camera = moving(0.5).to(device), small_scene().cameras[0]
    for name, value in (("groups", torch.arange(6) % 2), ("tiles", torch.ones(2, 2, dtype=torch.bool))):
        with pytest.raises(ShapeError, match=f"{name}: expected a tensor on {device.type}"):
            rasterize(there, camera, **{name: value})


@pytest.mark.parametrize("prior", PRIORS)
def test_an_expert_trains_there_as_on_the_cpu(device, prior: str):
    scene = small_scene()
    there = fit_expert(scene, get(prior).for_clip(4), QUICK, device=device, progress=False)
    here = fit_expert(scene, get(prior).for_clip(4), QUICK, progress=False)
    assert all(v.device.type == device.type for v in there.params.values()) and here.device.type == "cpu"
    assert len(there) == len(here) > len(scene.cloud)
    for field, least in (("means", 5e-4), ("opacities", 2e-3)):
        found, wanted = (getattr(e.to("cpu").at(0.5), field) for e in (there, here))
        assert (found - wanted).abs().median() < least  # Adam makes much of what rounding leaves of no gradient at all


def test_idle_gaussians_give_way_there(device):
    config = replace(QUICK, idle=0.2, idle_every=0.1)
    there, here = (
        fit_expert(small_scene(), get("polynomial").for_clip(4), config, device=d, progress=False) for d in (device, "cpu")
    )
    assert there.device.type == device.type and len(there) == len(here)


def test_a_run_that_was_cut_goes_on_there(device, tmp_path, monkeypatch):
    scene, prior = small_scene(), get("polynomial").for_clip(4)
    whole = fit_expert(scene, prior, QUICK, device=device, progress=False)
    stop_after(monkeypatch, fit, 5)
    with pytest.raises(KeyboardInterrupt):
        fit_expert(scene, prior, QUICK, device=device, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = fit_expert(scene, prior, QUICK, device=device, out=tmp_path, resume=True, progress=False)
    assert_alike(resumed.params, whole.params)


def test_a_mixture_learns_and_resumes_where_its_experts_are(device, mixture, tmp_path, monkeypatch):
    config = RefineConfig(steps=6, checkpoint_every=4, average=0.9)
    assert mixture.device.type == mixture.router.base.device.type == device.type
    whole = refine_mixture(small_scene(), mixture, config, progress=False)
    stop_after(monkeypatch, refine, 5)
    with pytest.raises(KeyboardInterrupt):
        refine_mixture(small_scene(), mixture, config, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = refine_mixture(small_scene(), mixture, config, out=tmp_path, resume=True, progress=False)
    for name, expert in whole.experts.items():
        assert_alike(resumed.experts[name].params, expert.params)
    assert_alike(dict(resumed.router.named_parameters()), dict(whole.router.named_parameters()))


def test_a_router_resumes_there(device, experts, tmp_path, monkeypatch):
    config = RouteConfig(steps=4, checkpoint_every=2)
    whole = fit_router(small_scene(), experts, config, progress=False)
    stop_after(monkeypatch, route, 3)
    with pytest.raises(KeyboardInterrupt):
        fit_router(small_scene(), experts, config, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = fit_router(small_scene(), experts, config, out=tmp_path, resume=True, progress=False)
    assert_alike(dict(resumed.router.named_parameters()), dict(whole.router.named_parameters()))


@pytest.mark.parametrize(
    "config",
    [
        RouterConfig(kind="pixel", inputs=("rays", "time", "color"), hidden=(5,)),
        RouterConfig(inputs=("rays", "color", "alpha"), context=3, background=1.0, shared=False),
        RouterConfig(kind="volume"),
    ],
    ids=lambda c: f"{c.kind}-{c.context}",
)
def test_every_router_learns_there(device, experts, config):
    mixture = fit_router(small_scene(), experts, RouteConfig(config, steps=2), progress=False)
    assert render_mixture(mixture, small_scene().cameras[0], 0.3).gates.device.type == device.type
    assert render_sparse(mixture, small_scene().cameras[0], 0.3, 0.2).color.device.type == device.type


def test_the_volume_router_learns_there(device, experts):
    assert fit_volume_router(small_scene(), experts, RouteConfig(steps=2), progress=False).device.type == device.type


def test_pruning_there(device, mixture):
    scene = small_scene()
    for name, steps in (("blend", 4), ("gate", 0), ("random", 0)):
        views = sample_views(scene, 2)
        pruned, report = prune_and_refit(
            scene, mixture, CRITERIA[name], views, ratio=0.4, steps=steps, rounds=2, progress=False
        )
        assert pruned.device.type == device.type and sum(report.after.values()) == sum(map(len, pruned.experts.values()))


def test_teaching_there(device, mixture, tmp_path):
    scene, config = small_scene(), DistillConfig(fit=replace(QUICK, steps=4), adopt=0.5, between=0.5)
    taught = distill(mixture, scene, "polynomial", config, cache=tmp_path, out=tmp_path, progress=False)
    assert taught.device.type == device.type and len(taught) == len(mixture.experts["polynomial"])
    again = distill(mixture.to("cpu"), scene, "polynomial", config, cache=tmp_path, out=tmp_path, resume=True, progress=False)
    assert again.device.type == "cpu" and all(torch.equal(v, again.params[k]) for k, v in taught.to("cpu").params.items())
    fresh = distill(mixture, scene, "polynomial", config, cache=tmp_path, from_scratch=True, progress=False)
    alone = retrain(mixture, scene, "hexplane", config, progress=False)
    assert fresh.device.type == alone.device.type == device.type


def test_what_is_measured_and_shown_is_that_of_the_same_model_on_the_cpu(device, mixture, tmp_path):
    scene, here = small_scene(), mixture.to("cpu")
    assert here.device.type == "cpu" and mixture.device.type == device.type
    for model in (mixture, here):
        assert fuse(model, [scene.view(1, 0)]).device == model.device
    there, same = (evaluate(mixture_renderer(m, backend="reference"), scene).mean.psnr for m in (mixture, here))
    assert there == pytest.approx(same, abs=1e-3)
    for name, scores in yardsticks(mixture, scene).items():
        assert scores.psnr == pytest.approx(yardsticks(here, scene)[name].psnr, abs=1e-2)
    assert fewest_tiles(mixture, scene)["psnr"] == pytest.approx(fewest_tiles(here, scene)["psnr"], abs=1e-2)
    sheets = [mixture_sheet(m, scene, 0, 1).astype(int) for m in (mixture, here)]
    assert abs(sheets[0] - sheets[1]).mean() < 0.1  # of 255 levels
    save_mixture(mixture, tmp_path)


def test_subsets_are_ranked_there(device, experts):
    config = SelectConfig(sizes=(2,), validation=1, every=2, timed=1, steps=1)
    ranked = rank_subsets(small_scene(), experts, config, progress=False)
    assert len(ranked) == 3 and ranked[0].ms > 0


def test_mixtures_and_students_of_the_tables_are_measured_there(device, request, tmp_path):
    if request.node.callspec.params["device"] == "elsewhere":
        pytest.skip("the reference takes minutes for this, and the kernels go the same way")
    clip = synthesize(tmp_path / "room", cameras=4, frames=2, size=(32, 24), progress=False)
    plan = paper.Plan(
        experts=("polynomial", "interpolation"), steps=2, every=2, timed=1, ratios=(0.5,), criteria=("blend",), rounds=1,
        scored=1, refit=1, shares=(0.5,), min_gates=(0.1,), left_out=1,
    )  # fmt: skip
    scene = load_scene(clip, cache_dir=tmp_path / "frames")
    bench = paper.Bench(scene, plan, 0, tmp_path / "out", progress=False, device=str(device))
    for table, what in (("experts", {"mix": 2}), ("distillation", {"student": "polynomial", "share": 0.5})):
        assert paper.rows_of(bench, table, what)
    assert bench.refined(plan.names).device.type == device.type
    fused = fuse(bench.refined(plan.names), [scene.view(1, 0)])
    models = {"there": fused, "here": fused.to("cpu")}
    found, wanted = (score_depth(m, scene, clip) for m in models.values())
    assert found.covered == pytest.approx(wanted.covered, abs=0.01) and wanted.covered > 0
    assert found.rmse == pytest.approx(wanted.rmse, rel=1e-3)
    sheets = [side_by_side({"fused": m}, scene.cameras[0], 0.5, scene.bounds).astype(int) for m in models.values()]
    assert abs(sheets[0] - sheets[1]).mean() < 0.1  # of 255 levels
