"""What every registered prior must do; a new prior is tested by being registered."""

from __future__ import annotations

import inspect
import json
import math
from contextlib import suppress
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor

from moegs import deform
from moegs.deform import Prior, Schedule
from moegs.deform import prior as registry
from moegs.errors import ConfigError, DataError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params, count, join, populations, take
from moegs.io import digest
from tests.deform._gradients import mixed

N = 6
TIMES = (0.0, 0.31, 0.77, 1.0)
FIELDS = ("means", "opacities", "sh", "quats", "scales", "covars", "features")
# where a promise cannot hold, and why
MOVES_ROUGHLY = {"hexplane": "its motion is read from a field at the position, which the move changes"}
HELD = {("embedding", "gaussian.means"): "the embedding regulariser holds the distances to neighbours constant"}
SHRINKS_ROUGHLY = {"reformulation": "the slice of a 4D Gaussian also depends on its temporal scale"}

every_prior = pytest.mark.parametrize("name", deform.names())


def make(name: str, dtype: torch.dtype = torch.float64, noise: float = 0.1) -> tuple[Prior, Params]:
    """A prior for a short clip, with trained tensors shaken so that nothing is zero by accident."""
    generator = torch.Generator().manual_seed(5)
    prior = deform.get(name).for_clip(20)
    cloud = PointCloud(torch.randn(N, 3, generator=generator), torch.rand(N, 3, generator=generator))
    params = prior.init(cloud, generator)
    trained = prior.param_groups(params, 1.0)
    shift = {k: noise * torch.randn(v.shape, generator=generator) for k, v in params.items() if k in trained}
    shaken = {k: v + shift[k] if k in shift else v for k, v in params.items()}
    return prior, {k: v.to(dtype) if v.is_floating_point() else v for k, v in shaken.items()}


def tensors(gaussians: Gaussians) -> tuple[Tensor, ...]:
    return tuple(v for f in FIELDS if (v := getattr(gaussians, f)) is not None)


def equal(a: Gaussians, b: Gaussians) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def close(a: Gaussians, b: Gaussians) -> None:
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y)


@every_prior
def test_starts_from_a_cloud_with_the_standard_fields(name):
    _, params = make(name)
    assert count(params) == N
    for population in populations(params):
        start = f"gaussian.{population}." if population else "gaussian."
        assert params[f"{start}scales"].shape[1] == 3
        assert params[f"{start}opacities"].ndim == 1
        assert params[f"{start}sh_dc"].shape[1:] == (1, 3)
        assert params[f"{start}sh_rest"].ndim == 3


@every_prior
def test_the_same_seed_starts_the_same(name):
    prior, cloud = deform.get(name).for_clip(20), PointCloud(torch.randn(N, 3), torch.rand(N, 3))
    first, again = (prior.init(cloud, torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)


@every_prior
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["number", "float32", "float64"])
def test_keeps_the_dtype_of_its_tensors(name, dtype, kind):
    prior, params = make(name, dtype)
    t = 0.31 if kind == "number" else torch.tensor(0.31, dtype=getattr(torch, kind))
    assert {v.dtype for v in tensors(prior.deform(params, t))} == {dtype}


@every_prior
def test_float32_agrees_with_float64(name):
    prior, params = make(name)
    single = {k: v.float() if v.is_floating_point() else v for k, v in params.items()}
    for t in TIMES:
        got, expected = prior.deform(single, t), prior.deform(params, t)
        for x, y in zip(tensors(got), tensors(expected), strict=True):
            torch.testing.assert_close(x.double(), y, atol=2e-4, rtol=2e-4)


@every_prior
def test_is_stateless(name):
    prior, params = make(name)
    before = {k: v.clone() for k, v in params.items()}
    first = prior.deform(params, 0.31)
    prior.deform(params, 0.9)
    prior.regularise(params, 0.9)
    assert equal(first, prior.deform(params, 0.31))
    assert all(torch.equal(params[k], before[k]) for k in before)


@every_prior
def test_gives_valid_gaussians(name):
    prior, params = make(name)
    for t in TIMES:
        got = prior.deform(params, t)
        assert len(got) == N and all(torch.isfinite(v).all() for v in tensors(got))
        assert ((got.opacities >= 0) & (got.opacities <= 1)).all()
        if got.covars is None:
            torch.testing.assert_close(got.quats.norm(dim=-1), torch.ones(N, dtype=torch.float64))
            assert (got.scales > 0).all()
        else:
            assert (torch.linalg.eigvalsh(got.covars) > 0).all()


def trained_names() -> list[tuple[str, str]]:
    return [(name, key) for name in deform.names() for key in sorted(make(name)[0].param_groups(make(name)[1], 1.0))]


@pytest.mark.parametrize(("name", "key"), trained_names())
def test_gradients_of_every_tensor(name, key):
    prior, params = make(name)
    value = params[key]
    if value.numel() == 0:
        assert prior.deform(params, 0.31).means.shape == (N, 3)
        return

    def run(x: Tensor) -> Tensor:
        changed = params | {key: x}
        values = tensors(prior.deform(changed, 0.31))
        if (name, key) not in HELD:
            values += (prior.regularise(changed, 0.31),)
        return mixed(*values)

    large = value.numel() > 40  # a random projection of the Jacobian instead of all of it
    assert torch.autograd.gradcheck(run, value.clone().requires_grad_(), fast_mode=large, atol=1e-5, nondet_tol=1e-12)


@every_prior
def test_gradient_of_time(name):
    prior, params = make(name)
    t = torch.tensor(0.3137, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: mixed(*tensors(prior.deform(params, t))), t, atol=1e-5)


@every_prior
def test_fresh_params_have_finite_gradients(name):
    prior, params = make(name, torch.float32, noise=0.0)
    trained = [params[k].requires_grad_() for k in prior.param_groups(params, 1.0)]
    for t in TIMES:
        loss = sum(v.square().sum() for v in tensors(prior.deform(params, t))) + prior.regularise(params, t)
        grads = torch.autograd.grad(loss, trained, allow_unused=True)
        assert all(torch.isfinite(g).all() for g in grads if g is not None)


@every_prior
def test_vmap_over_time(name):
    prior, params = make(name)
    times = torch.tensor(TIMES, dtype=torch.float64)
    batched = torch.func.vmap(lambda t: tensors(prior.deform(params, t)))(times)
    for i, t in enumerate(times):
        for got, expected in zip(batched, tensors(prior.deform(params, t)), strict=True):
            torch.testing.assert_close(got[i], expected)


@every_prior
def test_function_transforms_in_single_precision(name):
    """Native kernels cannot see into what torch.func hands them, and must not be asked."""
    prior, params = make(name, torch.float32)

    def total(p: Params) -> Tensor:
        return torch.stack([x.sum() for x in tensors(prior.deform(p, 0.31))]).sum()

    leaves = {k: v.detach().requires_grad_() for k, v in params.items() if v.is_floating_point()}
    total(params | leaves).backward()
    for key, value in torch.func.grad(total)(params).items():
        expected = leaves[key].grad if leaves[key].grad is not None else torch.zeros_like(value)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("ours", deform.names())  # a prior of one's own need not have such manners
def test_missing_and_short_tensors_are_named(ours):
    prior, params = make(ours)
    for key in (k for k, v in params.items() if k.startswith("gaussian.") and len(v)):
        with pytest.raises((ShapeError, ConfigError)):
            prior.deform({k: v[:-1] if k == key else v for k, v in params.items()}, 0.3)
        rest = {k: v for k, v in params.items() if k != key}
        with suppress(ShapeError):  # some can be left out, and none may fail in another way
            prior.deform(rest, 0.3)


@every_prior
def test_spans_are_above_zero(name):
    prior, n = deform.get(name).for_clip(20), 5
    for spans in (torch.zeros(n), torch.full((n,), -0.2)):
        with pytest.raises(DataError, match="spans"):
            prior.init(PointCloud(torch.randn(n, 3), torch.rand(n, 3), times=torch.rand(n), spans=spans))


@every_prior
def test_a_number_and_a_tensor_mean_the_same_time(name):
    prior, params = make(name)
    for t in TIMES:
        close(prior.deform(params, t), prior.deform(params, torch.tensor(t, dtype=torch.float64)))


@every_prior
def test_selecting_commutes_with_deforming(name):
    prior, params = make(name)
    keep = torch.tensor([True, False, True, True, False, True])
    close(prior.deform(take(params, keep), 0.31), prior.deform(params, 0.31)[keep])
    assert count(take(params, torch.zeros(N, dtype=torch.bool))) == 0
    assert len(prior.deform(take(params, ~keep & keep), 0.31)) == 0


@every_prior
def test_joining_what_was_taken_apart(name):
    prior, params = make(name)
    keep = torch.arange(N) < 2
    whole = join([take(params, keep), take(params, ~keep)])
    assert populations(whole) == populations(params)
    got, expected = (sorted(prior.deform(p, 0.31).means.tolist()) for p in (whole, params))
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected))


@every_prior
def test_moves_by_the_offset_at_every_time(name):
    prior, params = make(name)
    offsets = torch.randn(N, 3, dtype=torch.float64) * (1e-3 if name in MOVES_ROUGHLY else 1.0)
    moved = prior.moved(params, offsets)
    for t in TIMES:
        shift = prior.deform(moved, t).means - prior.deform(params, t).means
        torch.testing.assert_close(shift, offsets, atol=1e-2 if name in MOVES_ROUGHLY else 1e-9, rtol=0)


@every_prior
def test_shrinks_every_scale(name):
    prior, params = make(name)
    before, after = prior.deform(params, 0.31), prior.deform(prior.shrunk(params, 1.6), 0.31)
    if name in SHRINKS_ROUGHLY:
        volumes = torch.linalg.det(after.covars) / torch.linalg.det(before.covars)
        assert (volumes < 1).all()
    else:
        torch.testing.assert_close(after.scales, before.scales / 1.6)


@every_prior
def test_jitter_keeps_shapes_and_follows_the_generator(name):
    prior, params = make(name)
    one, two = (prior.jittered(params, torch.Generator().manual_seed(2)) for _ in range(2))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in params.items()}
    assert all(torch.equal(one[k], two[k]) for k in params)


@every_prior
def test_learning_rates_name_existing_tensors(name):
    prior, params = make(name)
    groups = prior.param_groups(params, 2.0)
    assert set(groups) <= set(params) and groups
    for schedule in groups.values():
        assert isinstance(schedule, Schedule)
        assert all(math.isfinite(schedule.at(u)) and schedule.at(u) >= 0 for u in (0.0, 0.5, 1.0))


@every_prior
def test_configuration_round_trip(name):
    cls = deform.get(name)
    recipes = [getattr(cls, r) for r in ("n3v", "technicolor") if inspect.ismethod(getattr(cls, r, None))]
    for prior in [cls(), cls.for_clip(48), *(recipe() for recipe in recipes)]:
        config = json.loads(json.dumps(deform.to_config(prior)))
        assert deform.from_config(name, config) == prior


@every_prior
def test_training_steps_end_with_the_prior_itself(name):
    prior, params = make(name)
    assert prior.at_step(100, 100) == prior
    for step in (0, 30, 99):
        assert len(prior.at_step(step, 100).deform(params, 0.31)) == N


@every_prior
def test_a_start_has_the_same_bytes_whatever_was_drawn_before(name):
    """Signs of zeros too: checkpoints and mixtures are known by their bytes."""
    prior, points = deform.get(name).for_clip(6), torch.rand(9, 3, generator=torch.Generator().manual_seed(3))
    starts = [prior.init(PointCloud(points, points, None), torch.Generator().manual_seed(1)) for _ in range(3)]
    assert len({digest(start) for start in starts}) == 1


@every_prior
def test_no_gaussians_regularise_to_nothing(name):
    prior, params = make(name)
    none = take(params, torch.zeros(N, dtype=torch.bool))
    learnt = {k: v.clone().requires_grad_(k in prior.param_groups(none, 1.0)) for k, v in none.items()}
    loss = prior.regularise(learnt, 0.4)
    assert torch.isfinite(loss)
    if loss.requires_grad:
        loss.backward()
    assert all(torch.isfinite(v.grad).all() for v in learnt.values() if v.grad is not None)


@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.1, -1.0), (-0.1,), (float("nan"),), (0.1, None, 2.0)])
def test_learning_rates_without_meaning_are_refused(rates):
    with pytest.raises(ConfigError, match="learning rate"):
        Schedule(*rates)


def test_an_installed_package_can_offer_a_prior(monkeypatch):
    point = EntryPoint("swinging", f"{__name__}:Swinging", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group, name=point.name: [point] * (name == point.name))
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    assert "swinging" in deform.names() and deform.get("swinging") is Swinging
    with pytest.raises(ConfigError, match="got 'sw'; one of your own has to be imported first"):
        deform.get("sw")


class Swinging(Prior):
    name = "swinging"
