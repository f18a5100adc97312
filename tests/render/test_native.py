"""The compiled rasteriser against its readable twin: images, every gradient, groups, instruction sets, threads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.errors import ShapeError
from moegs.gaussians import Gaussians, covariances
from moegs.render import RasterOptions, native, rasterize
from moegs.render.projection import project
from moegs.render.types import RasterInputs
from tests.render import agreement
from tests.render.agreement import GRADIENT, GROUP_OPTIONS, TAGS, every_order, run
from tests.render.scenes import camera, leaves, mixed_gaussians, of_one_kind, random_gaussians

pytestmark = pytest.mark.skipif(not native.available(), reason="the compiled kernels are not installed")
assert_agree = partial(agreement.assert_agree, "native")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 120),
    degree=st.integers(0, 3),
    features=st.sampled_from([0, 1, 3, 4, 7, 12, 13, 30]),
    eps2d=st.sampled_from([0.3, 0.1, 0.0]),
    compensate=st.booleans(),
)
def test_agrees_with_the_reference(seed, n, degree, features, eps2d, compensate):
    assert_agree(
        random_gaussians(n, seed, degree), camera(37, 29), features=features, seed=seed,
        options=RasterOptions(eps2d=eps2d, compensate=compensate),
    )  # fmt: skip


@pytest.mark.parametrize("features", [0, 3, 5, 14])
def test_every_instruction_set_agrees(isa, features):
    assert native.isa() == isa
    assert_agree(random_gaussians(150, 3), camera(), features=features, options=RasterOptions(compensate=True))


def test_covariances_agree(isa):
    gaussians = random_gaussians(80, 4)
    carried = Gaussians(gaussians.means, gaussians.opacities, gaussians.sh, covars=covariances(gaussians))
    assert_agree(carried, camera(), options=RasterOptions(eps2d=0.1, compensate=True))


def test_absolute_gradients_agree(isa):
    assert_agree(random_gaussians(80, 5), camera(), absgrad=True, features=3)


def test_opaque_scene_stops_alike(isa):
    gaussians = random_gaussians(200, 6)
    assert_agree(replace(gaussians, opacities=torch.full((200,), 0.9995), scales=gaussians.scales * 3), camera())


@every_order
@pytest.mark.parametrize("absgrad", [False, True])
def test_groups_agree_with_the_reference(tags, absgrad):
    more = {"features": 4, "absgrad": absgrad}
    assert_agree(random_gaussians(150, 7), camera(), groups=tags(150), options=GROUP_OPTIONS, **more)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_group_of_no_gaussians_shows_its_background(empty):
    groups = torch.tensor([k for k in range(3) if k != empty]).repeat_interleave(40)
    assert_agree(random_gaussians(80, 7), camera(), features=2, groups=groups, options=GROUP_OPTIONS)
    background = torch.rand(3, 3)
    out = rasterize(random_gaussians(80, 7), camera(), groups=groups, options=GROUP_OPTIONS, background=background,
                    backend="native")  # fmt: skip
    assert torch.equal(out.color[empty], background[empty].expand_as(out.color[empty]))
    assert not out.alpha[empty].any() and out.alpha.flatten(1).any(1).sum() == 2


def test_a_value_that_is_not_finite_is_found_in_every_group():
    for row in (3, 45, 89):
        gaussians = random_gaussians(90, 7)
        gaussians.means[row, 1] = float("nan")
        with pytest.raises(ShapeError, match=f"means.*{row}"):
            rasterize(gaussians, camera(), groups=TAGS["together"](90), backend="native")


@every_order
@pytest.mark.parametrize("features", [0, 3, 6])
def test_groups_equal_separate_calls_to_the_last_bit(isa, features, tags):
    n, cam = 200, camera(50, 35)
    gaussians, groups = random_gaussians(n, 8), tags(n)
    background = torch.rand(3, 3)
    values = torch.randn(n, features) if features else None
    g, inputs = leaves(gaussians)
    whole = rasterize(g, cam, groups=groups, options=GROUP_OPTIONS, background=background, features=values, backend="native")
    weight = torch.rand_like(whole.color)
    (whole.color * weight).sum().backward()
    for k in range(3):
        mask = groups == k
        part, part_inputs = leaves(gaussians[mask])
        only = None if values is None else values[mask]
        alone = rasterize(part, cam, options=GROUP_OPTIONS[k], background=background[k], features=only, backend="native")
        (alone.color * weight[k]).sum().backward()
        for name in ("color", "depth", "alpha") + (("features",) if features else ()):
            assert torch.equal(getattr(whole, name)[k], getattr(alone, name)), name
        assert torch.equal(whole.radii[mask], alone.radii)
        for name, value in part_inputs.items():
            assert torch.equal(inputs[name].grad[mask], value.grad), name


@pytest.mark.parametrize("compensate", [False, True])
def test_shapes_given_in_both_ways_agree(isa, compensate):
    assert_agree(mixed_gaussians(100, 4), camera(), options=RasterOptions(eps2d=0.1, compensate=compensate))


@every_order
def test_pictures_are_the_same_to_the_last_bit_where_no_gradient_is_asked_for(tags):
    gaussians, cam, groups = random_gaussians(200, 8), camera(50, 35), tags(200)
    with_gradients = rasterize(leaves(gaussians)[0], cam, groups=groups, backend="native")
    without = rasterize(gaussians, cam, groups=groups, backend="native")
    with torch.no_grad():
        within = rasterize(leaves(gaussians)[0], cam, groups=groups, backend="native")
    for name in ("color", "depth", "alpha", "radii"):
        assert torch.equal(getattr(with_gradients, name), getattr(without, name)), name
        assert torch.equal(getattr(with_gradients, name), getattr(within, name)), name


@pytest.mark.parametrize("together", [False, True])
def test_shapes_given_in_both_ways_equal_each_alone_to_the_last_bit(isa, together):
    gaussians, cam = mixed_gaussians(200, 8), camera(50, 35)
    if together:
        gaussians = gaussians[gaussians.by_covar.int().argsort(stable=True)]
    groups = gaussians.by_covar.int()
    g, inputs = leaves(gaussians)
    whole = rasterize(g, cam, groups=groups, options=GROUP_OPTIONS[:2], backend="native")
    weight = torch.rand_like(whole.color)
    (whole.color * weight).sum().backward()
    for k in (0, 1):
        part, part_inputs = leaves(of_one_kind(gaussians, bool(k)))
        alone = rasterize(part, cam, options=GROUP_OPTIONS[k], backend="native")
        (alone.color * weight[k]).sum().backward()
        for name in ("color", "depth", "alpha"):
            assert torch.equal(getattr(whole, name)[k], getattr(alone, name)), name
        for name, value in part_inputs.items():
            assert torch.equal(inputs[name].grad[groups == k], value.grad), name
    filler = inputs["quats"].grad[groups == 1], inputs["scales"].grad[groups == 1], inputs["covars"].grad[groups == 0]
    assert not any(value.any() for value in filler)


def test_same_bits_for_any_number_of_threads(isa, monkeypatch):
    gaussians, cam = random_gaussians(3000, 9), camera(90, 70)
    results = []
    for threads in (1, 2, 5, 1):
        monkeypatch.setenv("MOEGS_NUM_THREADS", str(threads))
        results.append(run("native", gaussians, cam, features=3))
    for images, grads in results[1:]:
        assert all(torch.equal(images[name], results[0][0][name]) for name in images)
        assert all(torch.equal(grads[name], results[0][1][name]) for name in grads)


@pytest.mark.parametrize("compensate", [False, True])
def test_projection_alone_agrees(isa, compensate):
    gaussians, cam, options = random_gaussians(60, 10, degree=3), camera(), RasterOptions(compensate=compensate)
    g, inputs = leaves(gaussians)
    viewmat = cam.viewmat.clone().requires_grad_()
    ours = native.project_native(g, replace(cam, viewmat=viewmat), options)
    h, expected_inputs = leaves(gaussians.to(torch.float64))
    expected_viewmat = cam.viewmat.double().requires_grad_()
    reference = replace(cam.to(torch.float64), viewmat=expected_viewmat)
    expected = project(RasterInputs(h, reference, (options,), torch.zeros(1, 3, dtype=torch.float64)))
    drawn = ours.radii[:, 0] > 0
    assert torch.equal(torch.nonzero(drawn).squeeze(1), expected.index)
    fields = ("means2d", "conics", "depths", "colors", "opacities")
    for name in fields:
        torch.testing.assert_close(getattr(ours, name)[drawn].double(), getattr(expected, name), atol=1e-4, rtol=1e-4)
        assert not getattr(ours, name)[~drawn].any()
    torch.testing.assert_close(ours.radii[drawn].double(), expected.extents, atol=1e-3, rtol=1e-4)
    weights = [torch.randn(getattr(expected, name).shape, dtype=torch.float64) for name in fields]
    sum((getattr(ours, n)[drawn].double() * w).sum() for n, w in zip(fields, weights, strict=True)).backward()
    sum((getattr(expected, n) * w).sum() for n, w in zip(fields, weights, strict=True)).backward()
    pairs = [(inputs[n].grad, expected_inputs[n].grad) for n in inputs] + [(viewmat.grad, expected_viewmat.grad)]
    for grad, wanted in pairs:
        torch.testing.assert_close(grad.double(), wanted, atol=GRADIENT * wanted.abs().max().item(), rtol=0)


def test_only_what_is_asked_for_gets_a_gradient():
    gaussians, cam = random_gaussians(100, 11), camera()
    values = torch.randn(100, 9, requires_grad=True)
    frozen = rasterize(gaussians, cam, features=values, backend="native")
    weight = torch.rand_like(frozen.features)
    (frozen.features * weight).sum().backward()
    g, inputs = leaves(gaussians)
    again = values.detach().clone().requires_grad_()
    (rasterize(g, cam, features=again, backend="native").features * weight).sum().backward()
    assert torch.equal(values.grad, again.grad)  # the short way for frozen Gaussians gives the same bits
    assert inputs["sh"].grad is None or not inputs["sh"].grad.any()


def test_a_loss_on_alpha_alone():
    gaussians, cam = random_gaussians(60, 12), camera()
    grads = []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float64)):
        g, inputs = leaves(gaussians.to(dtype))
        rasterize(g, cam, backend=backend).alpha.square().sum().backward()
        grads.append(inputs["opacities"].grad.double())
    torch.testing.assert_close(grads[0], grads[1], atol=GRADIENT * grads[1].abs().max().item(), rtol=0)
