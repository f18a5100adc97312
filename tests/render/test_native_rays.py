"""Directions through all pixels: the native kernel against torch, which other cameras still take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.gaussians.quaternions import to_matrix
from moegs.render import Camera, native
from moegs.render.camera import view_directions, view_directions_by_torch
from moegs.render.native.rays import usable

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_not())


def turned(width: int, height: int, seed: int = 0) -> Camera:
    generator = torch.Generator().manual_seed(seed)
    viewmat = torch.eye(4)
    viewmat[:3, :3] = to_matrix(torch.randn(4, generator=generator))
    k = torch.tensor([[0.8 * width, 0.0, 0.4 * width], [0.0, 0.9 * width, 0.7 * height], [0.0, 0.0, 1.0]])
    return Camera(viewmat, k, width, height)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 20))
def test_they_are_unit_vectors_and_those_of_torch(width, height, seed):
    camera = turned(width, height, seed)
    assert usable(camera.K, camera.viewmat)
    found, exact = view_directions(camera), view_directions_by_torch(camera.to(torch.float64))
    assert found.shape == (height, width, 3) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(exact.norm(dim=-1), torch.ones(height, width, dtype=torch.float64), rtol=0, atol=1e-6)


def test_every_instruction_set_agrees(isa):
    camera = turned(333, 171)
    exact = view_directions_by_torch(camera.to(torch.float64))
    torch.testing.assert_close(view_directions(camera).double(), exact, rtol=0, atol=1e-6)


def test_threads_change_no_bit(monkeypatch):
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MOEGS_NUM_THREADS", threads)
        found.append(view_directions(turned(300, 200)))
    assert torch.equal(*found)


def test_a_camera_that_learns_has_its_gradient():
    camera = turned(9, 7)
    k = camera.K.clone().requires_grad_()
    assert not usable(k, camera.viewmat)
    view_directions(replace(camera, K=k))[..., 0].sum().backward()
    assert k.grad is not None and k.grad[0, 0] != 0
