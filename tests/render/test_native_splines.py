"""Poses between key frames: the native kernel against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moegs.deform._splines import pose, pose_by_torch
from moegs.render import native
from moegs.render.native.splines import usable

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_not())


def drawn(n: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, frames, 3, generator=generator), torch.randn(n, frames, 4, generator=generator)


def with_gradients(function, keyframes: Tensor, rotations: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (keyframes, rotations)]
    found = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in found]
    loss = sum((x * w).sum() for x, w in zip(found, weights, strict=True))
    return [*(x.detach() for x in found), *torch.autograd.grad(loss, leaves)]


def assert_alike(keyframes: Tensor, rotations: Tensor, tau: float) -> None:
    assert usable(keyframes, rotations)
    got = with_gradients(lambda k, r: pose(k, r, tau), keyframes, rotations)
    twin = with_gradients(lambda k, r: pose_by_torch(k, r, tau), keyframes.double(), rotations.double())
    for value, expected in zip(got, twin, strict=True):
        largest = max([1.0, *expected.abs().flatten().tolist()])
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=3e-6 * largest)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(4, 9), st.floats(0, 1, width=32), st.integers(0, 99))
def test_it_is_what_torch_computes_and_so_are_its_gradients(n, frames, way, seed):
    assert_alike(*drawn(n, frames, seed), 1 + way * (frames - 3))


@pytest.mark.parametrize("tau", [1.0, 3.3, 4.999, 6.0])
def test_every_instruction_set_agrees(isa, tau):
    """More Gaussians than one piece of work, and not a multiple of anything."""
    assert_alike(*drawn(1037, 9), tau)


def test_rotations_that_are_empty_alike_or_opposite(isa):
    keyframes, rotations = drawn(20, 5)
    rotations[0] = 0.0
    rotations[1, 2] = 0.0
    rotations[2, 1] = 0.0
    rotations[3, 2] = 2 * rotations[3, 1]
    rotations[4, 2] = -rotations[4, 1]
    rotations[5, 2] = rotations[5, 1] + 1e-3
    rotations[6] *= 1e-4
    for tau in (1.0, 1.4):
        assert_alike(keyframes, rotations, tau)
    quats = pose(keyframes, rotations, 1.4)[1]
    assert quats[0].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(torch.linalg.vector_norm(quats, dim=-1), torch.ones(20))


def test_beyond_the_key_frames_it_goes_on_as_torch_does():
    keyframes, rotations = drawn(20, 6)
    for tau in (0.2, 5.7):
        exact = pose_by_torch(keyframes.double(), rotations.double(), tau)
        for value, expected in zip(pose(keyframes, rotations, tau), exact, strict=True):
            torch.testing.assert_close(value.double(), expected, atol=1e-4, rtol=1e-4)


def test_only_what_is_asked_for_gets_a_gradient():
    keyframes, rotations = drawn(20, 6)
    keyframes.requires_grad_()
    means = pose(keyframes, rotations, 2.5)[0]
    means.sum().backward()
    assert rotations.grad is None
    assert keyframes.grad.flatten(2).any(2).any(0).tolist() == [False, True, True, True, True, False]


def test_threads_change_no_bit(monkeypatch):
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MOEGS_NUM_THREADS", threads)
        found.append(with_gradients(lambda k, r: pose(k, r, 2.3), *drawn(3001, 6)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_it_leaves_to_others_what_it_does_not_cover():
    keyframes, rotations = drawn(3, 6)
    assert usable(keyframes, rotations)
    assert not usable(keyframes.double(), rotations)
    assert not usable(keyframes, rotations[:, :5])
