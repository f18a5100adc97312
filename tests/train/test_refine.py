"""Stage 3: experts and router that learn on together gain, leave what they were given alone, and resume bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moegs.deform import get
from moegs.errors import ConfigError, DivergenceError, FormatError
from moegs.expert import Expert
from moegs.gaussians.params import count, take
from moegs.route import Mixture, VolumePixelRouter
from moegs.train import (
    FitConfig,
    RefineConfig,
    RouteConfig,
    evaluate,
    expert_renderer,
    fit_expert,
    fit_router,
    mixture_renderer,
    refine,
    refine_mixture,
    usual_dropout,
)
from moegs.train.checkpoint import NAME
from tests.train.interrupt import stop_after
from tests.train.scenes import small_scene

QUICK = RefineConfig(steps=30, checkpoint_every=7)


@pytest.fixture(scope="module")
def mixture():
    scene, config = small_scene(), FitConfig(steps=60, densify_every=1000, cooldown=0.0)
    experts = {n: fit_expert(scene, get(n).for_clip(4), config, progress=False) for n in ("polynomial", "hexplane")}
    return fit_router(scene, experts, RouteConfig(steps=40), progress=False)


def tensors(mixture):
    parts = {f"{n}/{k}": v for n, e in mixture.experts.items() for k, v in e.params.items()}
    return {k: v.clone() for k, v in (parts | mixture.router.state_dict()).items()}


@pytest.mark.parametrize("wrong", [{"expert_rate": -1.0}, {"router_rate": float("nan")}, {"decay": 0.0}, {"average": 2.0},
                                   {"expert_dropout": 1.1}, {"expert_dropout": float("nan")}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RefineConfig(**wrong)


def test_gains_on_the_held_out_camera_and_leaves_the_given_mixture_alone(mixture):
    scene, before = small_scene(), tensors(mixture)
    refined = refine_mixture(scene, mixture, replace(QUICK, steps=60), progress=False)
    scores = [evaluate(mixture_renderer(m), scene, timed=1).mean.psnr for m in (mixture, refined)]
    assert scores[1] > scores[0] + 0.3
    assert all(torch.equal(v, before[k]) for k, v in tensors(mixture).items())
    assert refined.router.counts == mixture.router.counts
    assert all(e.meta["refine steps"] == 60 for e in refined.experts.values())
    assert not any(v.requires_grad for e in refined.experts.values() for v in e.params.values())


def changed(before, after) -> set[str]:
    """Names of the experts that are not the same to the last bit."""
    pairs = {name: (expert.params, after.experts[name].params) for name, expert in before.experts.items()}
    return {name for name, (a, b) in pairs.items() if any(not torch.equal(v, b[k]) for k, v in a.items())}


def test_a_step_leaves_as_many_alone_as_dropout_says(mixture):
    scene, one = small_scene(), replace(QUICK, steps=1, average=0.0)
    seeds = range(12)
    for chance, least, most in ((0.0, 0, 0), (0.5, 2, 10), (1.0, 12, 12)):
        runs = [refine_mixture(scene, mixture, replace(one, expert_dropout=chance, seed=s), progress=False) for s in seeds]
        touched = [changed(mixture, run) for run in runs]
        assert least <= sum(len(names) == 1 for names in touched) <= most
        assert all(1 <= len(names) <= 2 for names in touched)
        assert chance < 1 or {name for names in touched for name in names} == set(mixture.experts)


def test_dropout_keeps_experts_right_by_themselves(mixture):
    scene, alone = small_scene(), []
    for chance in (0.0, 1.0):
        config = RefineConfig(steps=60, expert_dropout=chance)
        refined = refine_mixture(scene, mixture, config, progress=False)
        alone.append([evaluate(expert_renderer(e), scene, timed=1).mean.psnr for e in refined.experts.values()])
    assert sum(alone[1]) > sum(alone[0]) + 0.5


def test_dropout_goes_by_how_often_photographs_come(mixture):
    assert usual_dropout(300, 100) == 0 and usual_dropout(1200, 100) == usual_dropout(9000, 100) == 0.5
    assert 0 < usual_dropout(500, 100) < usual_dropout(900, 100) < 0.5
    scene, once = small_scene(), replace(QUICK, steps=1, average=0.0)
    assert changed(mixture, refine_mixture(scene, mixture, once, progress=False)) == set(mixture.experts)
    few = {"cameras": scene.train[:1], "progress": False}
    steps = 20 * scene.n_frames
    runs = [refine_mixture(scene, mixture, replace(QUICK, steps=steps, expert_dropout=p), **few) for p in (None, 0.5, 0.0)]
    assert not changed(*runs[:2]) and changed(*runs[1:])


def test_one_expert_alone_is_never_left_out(mixture):
    name, expert = next(iter(mixture.experts.items()))
    single = Mixture({name: expert}, VolumePixelRouter([len(expert)]))
    assert changed(single, refine_mixture(small_scene(), single, RefineConfig(steps=2, expert_dropout=1.0), progress=False))


HALF_DRAWN = replace(QUICK, steps=4, checkpoint_every=1, expert_dropout=1.0)  # one of two experts has no moments yet


@pytest.mark.parametrize(
    ("config", "cut"),  # before the first checkpoint, before the mean begins, and within it
    [(QUICK, 3), (QUICK, 16), (QUICK, 24), (HALF_DRAWN, 1)],
)
def test_a_resumed_refinement_ends_in_the_same_bits(tmp_path, monkeypatch, mixture, config: RefineConfig, cut: int):
    scene = small_scene()
    whole = tensors(refine_mixture(scene, mixture, config, progress=False))
    stop_after(monkeypatch, refine, cut)
    with pytest.raises(KeyboardInterrupt):
        refine_mixture(scene, mixture, config, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = tensors(refine_mixture(scene, mixture, config, out=tmp_path, resume=True, progress=False))
    assert all(torch.equal(v, resumed[k]) for k, v in whole.items())


@pytest.mark.parametrize("average", [0.0, 0.5, 1.0])
def test_the_result_is_the_mean_of_the_last_states(monkeypatch, mixture, average: float):
    import moegs.train.refine as module

    states, take = [], module._step

    def watched(scene, config, order, run, shown):
        numbers = take(scene, config, order, run, shown)
        states.append({k: v.detach().clone() for k, v in run.learnt().items()})
        return numbers

    monkeypatch.setattr(module, "_step", watched)
    config = RefineConfig(steps=12, average=average)
    found = refine_mixture(small_scene(), mixture, config, progress=False)
    taken = {0.0: [11], 0.5: [6, 11], 1.0: [1, 6, 11]}[average]
    for name, result in (
        ("0/gaussian.means", found.experts["polynomial"].params["gaussian.means"]), ("router/base", found.router.base)
    ):  # fmt: skip
        torch.testing.assert_close(result, torch.stack([states[i][name] for i in taken]).mean(0))


def test_a_finished_refinement_resumes_to_its_result(tmp_path, mixture):
    how = {"out": tmp_path, "progress": False}
    first, again = (refine_mixture(small_scene(), mixture, replace(QUICK, steps=4), resume=r, **how) for r in (False, True))
    assert all(torch.equal(v, tensors(again)[k]) for k, v in tensors(first).items())


def test_a_share_has_to_be_one():
    with pytest.raises(ConfigError, match="average"):
        RefineConfig(average=1.5)


def test_refuses_to_resume_another_run(tmp_path, mixture):
    refine_mixture(small_scene(), mixture, replace(QUICK, steps=2), out=tmp_path, progress=False)
    with pytest.raises(ConfigError, match="expert_rate"):
        other = replace(QUICK, steps=2, expert_rate=1.0)
        refine_mixture(small_scene(), mixture, other, out=tmp_path, resume=True, progress=False)


def test_a_checkpoint_that_does_not_fit_is_one_error(tmp_path, mixture):
    refine_mixture(small_scene(), mixture, replace(QUICK, steps=2), out=tmp_path, progress=False)
    path = tmp_path / NAME
    with safe_open(path, framework="pt") as file:
        tensors, header = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    for changed in ("params/0/gaussian.means", "adam/1/gaussian.means/exp_avg", "mean/1/gaussian.means"):
        save_file(tensors | {changed: tensors[changed][:-1].contiguous()}, path, header)
        with pytest.raises(FormatError, match=r"gaussian\.means"):
            refine_mixture(small_scene(), mixture, replace(QUICK, steps=2), out=tmp_path, resume=True, progress=False)


def test_stops_at_a_loss_that_is_not_finite(monkeypatch, mixture):
    import moegs.train.refine as module

    monkeypatch.setattr(module, "photometric_loss", lambda *args: torch.tensor(torch.nan, requires_grad=True))
    with pytest.raises(DivergenceError, match="step 0"):
        refine_mixture(small_scene(), mixture, QUICK, progress=False)


def test_refining_draws_nothing_from_the_global_generator(mixture):
    before = torch.get_rng_state()
    refine_mixture(small_scene(), mixture, RefineConfig(steps=1), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_expert_that_pruning_emptied_is_refined_along():
    scene = small_scene()
    prior, other = get("embedding").for_clip(4), get("polynomial").for_clip(4)
    params = prior.init(scene.cloud)
    empty = Expert(prior, take(params, torch.zeros(count(params), dtype=torch.bool)))
    full = Expert(other, other.init(scene.cloud))
    both = Mixture({"empty": empty, "full": full}, VolumePixelRouter([0, len(full)]))
    refined = refine_mixture(scene, both, RefineConfig(steps=3), progress=False)
    assert len(refined.experts["empty"]) == 0
    assert not torch.equal(refined.experts["full"].params["gaussian.means"], full.params["gaussian.means"])
