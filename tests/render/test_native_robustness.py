"""The compiled rasteriser at the edges: odd inputs, extreme values, several callers, and no memory out of bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.errors import BackendError, ConfigError, ShapeError
from moegs.gaussians import Gaussians, covariances
from moegs.render import Camera, RasterOptions, native, rasterize
from tests.render.scenes import camera, leaves, random_gaussians

pytestmark = pytest.mark.skipif(not native.available(), reason="the compiled kernels are not installed")


def draw(gaussians: Gaussians, cam: Camera, **kw):
    return rasterize(gaussians, cam, backend="native", **kw)


def test_no_gaussians_leave_the_background():
    g, inputs = leaves(random_gaussians(0))
    background = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    out = draw(g, camera(), background=background, features=torch.zeros(0, 2))
    assert torch.equal(out.color, background.expand(28, 40, 3)) and not out.alpha.any() and not out.features.any()
    out.color.sum().backward()
    assert torch.equal(background.grad, torch.full((3,), 28.0 * 40)) and inputs["means"].grad.shape == (0, 3)


def test_all_behind_the_camera():
    gaussians = random_gaussians(50)
    g, inputs = leaves(replace(gaussians, means=gaussians.means - torch.tensor([0, 0, 50.0])))
    out = draw(g, camera())
    out.color.sum().backward()
    assert not out.alpha.any() and not out.radii.any() and not any(v.grad.any() for v in inputs.values())


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (17, 1), (16, 16), (15, 5)])
def test_small_images(size):
    gaussians, cam = random_gaussians(40, 2), camera(*size)
    cam = replace(cam, K=torch.tensor([[30.0, 0, size[0] / 2], [0, 30.0, size[1] / 2], [0, 0, 1]]))
    expected = rasterize(gaussians, cam, backend="reference")
    torch.testing.assert_close(draw(gaussians, cam).color, expected.color, atol=1e-4, rtol=0)


def test_a_large_image():
    cam = camera(4096, 4096)
    g, inputs = leaves(random_gaussians(3, 1, degree=0))
    out = draw(replace(g, scales=g.scales * 0.1), cam)
    out.alpha.sum().backward()
    assert out.color.shape == (4096, 4096, 3) and out.alpha.max() > 0.02 and inputs["means"].grad.isfinite().all()


def test_float64_and_strided_inputs():
    gaussians, cam = random_gaussians(60, 3), camera()
    plain = draw(gaussians, cam)
    wide = torch.zeros(60, 6)
    wide[:, ::2] = gaussians.means
    assert torch.equal(draw(replace(gaussians, means=wide[:, ::2]), cam).color, plain.color)
    g, inputs = leaves(gaussians.to(torch.float64))
    out = draw(g, cam)
    assert out.color.dtype == torch.float64 and torch.equal(out.color.float(), plain.color)
    out.color.sum().backward()
    assert all(v.grad.dtype == torch.float64 and v.grad.isfinite().all() for v in inputs.values())


@pytest.mark.parametrize("field", ["means", "quats", "scales", "opacities", "sh"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(field, value):
    gaussians = random_gaussians(30, 4)
    gaussians = replace(gaussians, means=gaussians.means.abs() * 0.1 + torch.tensor([0, 0, 2.0]))
    getattr(gaussians, field)[17].fill_(value)
    with pytest.raises(ShapeError, match=rf"{field}: expected finite values, got -?(nan|inf) at index \[17"):
        draw(gaussians, camera())


def test_features_that_are_not_finite_are_named():
    gaussians = random_gaussians(5, 4)
    gaussians = replace(gaussians, means=torch.tensor([0, 0, 2.0]).repeat(5, 1))
    features = torch.zeros(5, 3)
    features[2, 1] = float("nan")
    with pytest.raises(ShapeError, match=r"features: expected finite values, got nan at index \[2, 1\]"):
        draw(gaussians, camera(), features=features)


def test_what_it_cannot_do_is_said():
    gaussians, cam = random_gaussians(5, 5), camera()
    with pytest.raises(BackendError, match=r"camera\.K requires grad"):
        draw(gaussians, replace(cam, K=cam.K.clone().requires_grad_()))
    with pytest.raises(BackendError, match="absgrad works with at most 12 features, got 13"):
        draw(gaussians, cam, features=torch.zeros(5, 13), probe=torch.zeros(5, 2), absgrad=True)
    meta = gaussians.to("meta")
    with pytest.raises(BackendError, match="on the CPU, got it on meta"):
        draw(meta, cam)


def test_more_tiles_than_memory_is_an_error():
    huge = replace(random_gaussians(3000, 6), scales=torch.full((3000, 3), 50.0))
    with pytest.raises(BackendError, match=r"cover \d+ tiles of the 4096x4096 image"):
        draw(huge, camera(4096, 4096))


def test_thread_count_variable_is_checked(monkeypatch):
    monkeypatch.setenv("MOEGS_NUM_THREADS", "two")
    with pytest.raises(ConfigError, match="MOEGS_NUM_THREADS: expected a positive integer, got 'two'"):
        draw(random_gaussians(5), camera())


def test_twice_differentiating_is_refused():
    g, inputs = leaves(random_gaussians(20, 7))
    (grad,) = torch.autograd.grad(draw(g, camera()).color.square().sum(), inputs["means"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_several_forwards_before_a_backward():
    gaussians, views = random_gaussians(100, 8), [camera(40, 28), camera(33, 50, tilt=0.3), camera(40, 28, tilt=-0.2)]
    g, together = leaves(gaussians)
    sum(draw(g, view).color.square().mean() for view in views).backward()
    h, apart = leaves(gaussians)
    for view in views:
        draw(h, view).color.square().mean().backward()
    for name, value in together.items():
        torch.testing.assert_close(value.grad, apart[name].grad, atol=1e-7, rtol=1e-4)


def test_backward_twice_over_a_kept_graph():
    g, inputs = leaves(random_gaussians(60, 9))
    loss = draw(g, camera()).color.square().mean()
    first = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True)
    second = torch.autograd.grad(loss, list(inputs.values()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_tensor_changed_in_between_is_noticed():
    g, inputs = leaves(random_gaussians(20, 10))
    loss = draw(g, camera()).color.sum()
    with torch.no_grad():
        inputs["means"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_callers_on_two_threads_do_not_meet(monkeypatch):
    monkeypatch.setenv("MOEGS_NUM_THREADS", "2")
    scenes = [(random_gaussians(400, seed), camera(40 + 9 * seed, 30)) for seed in range(2)]
    expected = [draw(*scene).color for scene in scenes]
    wrong = []

    def repeat(index: int) -> None:
        for _ in range(15):
            g, inputs = leaves(scenes[index][0])
            out = draw(g, scenes[index][1])
            out.color.sum().backward()
            if not torch.equal(out.color, expected[index]) or not inputs["sh"].grad.isfinite().all():
                wrong.append(index)

    workers = [threading.Thread(target=repeat, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


FORK = """
import os, torch
from tests.render.scenes import camera, random_gaussians
from moegs.render import rasterize
scene = random_gaussians(200), camera()
before = rasterize(*scene, backend="native").color
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(rasterize(*scene, backend="native").color, before) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_can_draw():
    environment = {**os.environ, "MOEGS_NUM_THREADS": "2", "PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore"}
    assert subprocess.run([sys.executable, "-c", FORK], env=environment, timeout=60).returncode == 0


def test_an_unknown_instruction_set_is_refused():
    environment = {**os.environ, "MOEGS_NATIVE_ISA": "mmx", "PYTHONPATH": os.getcwd()}
    code = "from moegs.render import native; native.isa()"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0 and "expected avx512, avx2 or portable, got 'mmx'" in result.stderr


LENGTHS = st.sampled_from([0.0, 1e-38, 1e-20, 1e-8, 1e-4, 0.03, 1.0, 30.0, 1e4, 1e9, 1e18, 3e38])
PLACES = st.sampled_from([0.0, 1e-30, 0.01, -0.3, 1.0, -5.0, 1e3, -1e9, 3e38])
DEPTHS = st.sampled_from([-3.0, 0.0, 0.2001, 0.21, 1.0, 2.0, 50.0, 1e9, 3e38])
TURNS = st.sampled_from([0.0, 1e-38, 1e-13, 1e-6, 0.5, -1.0, 1e3, 3e38])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    scales=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    place=st.tuples(PLACES, PLACES, DEPTHS),
    quat=st.tuples(TURNS, TURNS, TURNS, TURNS),
    opacity=st.sampled_from([0.0, 1.0 / 255.0, 0.00393, 0.3, 0.9995, 1.0]),
    eps2d=st.sampled_from([0.0, 0.1, 0.3]),
    compensate=st.booleans(),
    as_covars=st.booleans(),
)
def test_gradients_are_finite_for_every_finite_input(scales, place, quat, opacity, eps2d, compensate, as_covars):
    near = random_gaussians(6, 11)
    extreme = Gaussians(
        means=torch.cat([near.means, torch.tensor([place])]),
        opacities=torch.cat([near.opacities, torch.tensor([opacity])]),
        sh=torch.cat([near.sh, near.sh[:1] * 10]),
        quats=torch.cat([near.quats, torch.tensor([quat])]),
        scales=torch.cat([near.scales, torch.tensor([scales])]),
    )
    if as_covars:
        covars = covariances(extreme)
        if not covars.isfinite().all():
            return
        extreme = Gaussians(extreme.means, extreme.opacities, extreme.sh, covars=covars)
    g, inputs = leaves(extreme)
    cam = camera(24, 20)
    inputs["viewmat"] = cam.viewmat.clone().requires_grad_()
    options = RasterOptions(eps2d=eps2d, compensate=compensate)
    out = draw(g, replace(cam, viewmat=inputs["viewmat"]), options=options)
    assert all(image.isfinite().all() for image in (out.color, out.depth, out.alpha, out.radii))
    (out.color.sum() + out.depth.sum() + out.alpha.sum()).backward()
    for name, value in inputs.items():
        assert value.grad.isfinite().all(), name


def test_needles_agree_with_double_precision():
    n, cam = 60, camera(40, 30)
    gaussians = random_gaussians(n, 12, degree=0)
    needles = replace(gaussians, scales=torch.tensor([2.0, 1e-4, 1e-4]).repeat(n, 1), opacities=gaussians.opacities * 0.3)
    grads = []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float64)):
        g, inputs = leaves(needles.to(dtype))
        rasterize(g, cam, backend=backend, options=RasterOptions(compensate=True)).color.sum().backward()
        grads.append({name: value.grad.double() for name, value in inputs.items()})
    for name, expected in grads[1].items():
        torch.testing.assert_close(grads[0][name], expected, atol=2e-3 * expected.abs().max().item(), rtol=0)


def test_a_loss_that_is_not_finite_stays_visible():
    g, inputs = leaves(random_gaussians(30, 13))
    out = draw(g, camera())
    (out.color.sum() * float("nan")).backward()
    assert inputs["means"].grad.isnan().any() and inputs["sh"].grad.isnan().any()
