"""Stage 2: the router beats its experts, leaves them alone, and resumes bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.deform import get
from moegs.errors import ConfigError, DivergenceError
from moegs.route import RouterConfig, VolumePixelRouter
from moegs.train import FitConfig, RouteConfig, evaluate, expert_renderer, fit_expert, fit_router, mixture_renderer
from tests.train.interrupt import stop_after
from tests.train.scenes import small_scene

QUICK = RouteConfig(steps=30, checkpoint_every=7)


@pytest.fixture(scope="module")
def experts():
    scene, config = small_scene(), FitConfig(steps=60, densify_every=1000, cooldown=0.0)
    return {n: fit_expert(scene, get(n).for_clip(4), config, progress=False) for n in ("polynomial", "interpolation")}


def blemished(expert, side: float):
    """The same expert with wrong colours on one side of the scene."""
    wrong = expert.params["gaussian.means"][:, 0] * side > 0
    dc = torch.where(wrong[:, None, None], -expert.params["gaussian.sh_dc"], expert.params["gaussian.sh_dc"])
    return replace(expert, params=expert.params | {"gaussian.sh_dc": dc})


def test_the_router_learns_which_expert_to_trust_where(experts):
    scene, whole = small_scene(), experts["polynomial"]
    halves = {"left": blemished(whole, 1.0), "right": blemished(whole, -1.0)}
    mixture = fit_router(scene, halves, replace(QUICK, steps=100), progress=False)
    best = max(evaluate(expert_renderer(e), scene, timed=1).mean.psnr for e in halves.values())
    assert evaluate(mixture_renderer(mixture), scene, timed=1).mean.psnr > best + 1.5


def test_experts_stay_as_they_are(experts):
    before = {n: {k: v.clone() for k, v in e.params.items()} for n, e in experts.items()}
    mixture = fit_router(small_scene(), experts, QUICK, progress=False)
    for name, params in before.items():
        assert all(torch.equal(v, experts[name].params[k]) for k, v in params.items())
        assert all(torch.equal(v, mixture.experts[name].params[k]) for k, v in params.items())


def test_temperatures_fall_from_the_first_to_the_last():
    config = RouteConfig(steps=3, temperatures=(1.0, 0.01))
    assert [config.temperature(step) for step in range(3)] == pytest.approx([1.0, 0.1, 0.01])
    assert RouteConfig(router=RouterConfig(temperature=0.3)).temperature(7) == 0.3
    assert RouteConfig(steps=1, temperatures=(0.5, 0.1)).temperature(0) == 0.5


def test_what_training_is_told_leaves_the_routers_own_temperature(experts):
    """As the released code has it: cold while it learns, 1 when it renders."""
    scene = small_scene()
    constant = replace(QUICK, router=RouterConfig(temperature=0.1))
    same = replace(QUICK, temperatures=(0.1, 0.1))
    learnt, told = (fit_router(scene, experts, c, progress=False).router for c in (constant, same))
    assert (learnt.config.temperature, told.config.temperature) == (0.1, 1.0)
    assert all(torch.equal(v, told.state_dict()[k]) for k, v in learnt.state_dict().items())
    falling = fit_router(scene, experts, replace(QUICK, temperatures=(1.0, 0.1)), progress=False).router
    assert not torch.equal(falling.base, told.base)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": (1.0,)}, "two numbers above 0"),
        ({"temperatures": (1.0, 0.0)}, "two numbers above 0"),
        ({"temperatures": (1.0, None)}, "two numbers above 0"),
        ({"temperatures": (1.0, float("nan"))}, "two numbers above 0"),
        ({"lr_weights": -1.0}, "lr_weights: expected a number of at least 0"),
        ({"lr_network": float("nan")}, "lr_network"),
        ({"decay": 0.0}, "decay"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RouteConfig(**settings)


@pytest.mark.parametrize("cut", [2, 18])
def test_a_resumed_router_ends_in_the_same_bits(tmp_path, monkeypatch, experts, cut: int):
    from moegs.train import route

    scene = small_scene()
    whole = fit_router(scene, experts, QUICK, progress=False).router.state_dict()
    stop_after(monkeypatch, route, cut)
    with pytest.raises(KeyboardInterrupt):
        fit_router(scene, experts, QUICK, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = fit_router(scene, experts, QUICK, out=tmp_path, resume=True, progress=False).router.state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def moved(expert: Expert) -> Expert:
    return replace(expert, params={k: v + 1e-3 if v.is_floating_point() else v for k, v in expert.params.items()})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda experts: {n: moved(e) for n, e in experts.items()}, "another models: "),
        (lambda experts: {n: replace(e, background=(0.5, 0.5, 0.5)) for n, e in experts.items()}, "another models: "),
        (lambda experts: dict(reversed(experts.items())), "with experts = "),
    ],
    ids=["tensors", "background", "order"],
)
def test_resuming_over_other_experts_is_refused(tmp_path, experts, other, message):
    scene = small_scene()
    fit_router(scene, experts, QUICK, out=tmp_path, progress=False)
    with pytest.raises(ConfigError, match=message):
        fit_router(scene, other(experts), QUICK, out=tmp_path, resume=True, progress=False)


def test_resuming_from_another_start_is_refused(tmp_path, experts):
    scene = small_scene()
    start = fit_router(scene, experts, replace(QUICK, steps=1), progress=False).router
    fit_router(scene, experts, QUICK, out=tmp_path, start=start, progress=False)
    fit_router(scene, experts, QUICK, out=tmp_path, start=start, resume=True, progress=False)
    with pytest.raises(ConfigError, match="a run with another router"):
        fit_router(scene, experts, QUICK, out=tmp_path, resume=True, progress=False)


def test_there_must_be_a_folder_to_resume_from(experts):
    with pytest.raises(ConfigError, match="resume: .* name it"):
        fit_router(small_scene(), experts, QUICK, resume=True, progress=False)


def test_a_start_of_another_shape_is_refused(experts):
    start = VolumePixelRouter([3] * len(experts))
    with pytest.raises(ConfigError, match=r"start: base: expected \(\d+,\) for these experts .* got \(6,\)"):
        fit_router(small_scene(), experts, QUICK, start=start, progress=False)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_router(tmp_path, monkeypatch, experts):
    from moegs.train import route

    class Poisoned(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.nan

    plain = route.photometric_loss
    monkeypatch.setattr(route, "photometric_loss", lambda *args: Poisoned.apply(plain(*args)))
    with pytest.raises(DivergenceError, match="gradient of the router's 'base' is not finite at step 0"):
        fit_router(small_scene(), experts, replace(QUICK, checkpoint_every=1), out=tmp_path, progress=False)
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("wrong", [{"hidden": (0,)}, {"channels": -1}, {"kind": "pixel", "inputs": ()}])
def test_a_network_without_a_shape_is_refused(wrong):
    with pytest.raises(ConfigError, match="router"):
        RouterConfig(**wrong)
