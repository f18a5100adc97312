from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moegs.errors import ConfigError
from moegs.render import Camera
from moegs.render.paths import between, central, look_at, spiral

K = torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])


def rig(n: int = 5) -> list[Camera]:
    """Cameras in a row along x, all looking down z."""
    views = [torch.eye(4) for _ in range(n)]
    for i, view in enumerate(views):
        view[0, 3] = -(i - n // 2) * 0.5
    return [Camera(view, K, width=32, height=24) for view in views]


def test_the_central_camera_is_in_the_middle():
    assert central(rig()) == 2


@given(count=st.integers(1, 40), focus=st.floats(0.5, 20))
def test_every_camera_keeps_the_focus_in_the_centre_and_stays_near(count, focus):
    path = spiral(rig(), count, focus=focus)
    assert len(path) == count
    for camera in path:
        seen = camera.viewmat @ torch.tensor([0, 0, focus, 1.0])
        assert torch.allclose(seen[:2], torch.zeros(2), atol=1e-4) and seen[2] > 0
        rotation = camera.viewmat[:3, :3]
        assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5)
        assert float(torch.linalg.det(rotation)) == pytest.approx(1, abs=1e-5)
        assert float(camera.centre.norm()) < 0.5 * 1.3


@given(count=st.integers(0, 12), seed=st.integers(0, 100))
def test_cameras_between_are_between(count, seed):
    cameras = rig()
    for i, camera in enumerate(between(cameras, count, seed)):
        start = cameras[i % len(cameras)]
        others = [(c.centre - start.centre) for c in cameras if c is not start]
        way = camera.centre - start.centre
        fractions = [
            float(way @ o / (o @ o)) for o in others if torch.allclose(way, (way @ o / (o @ o)) * o, atol=1e-6)
        ]
        assert any(0.25 <= f <= 0.75 for f in fractions)
        assert (camera.width, camera.height) == (start.width, start.height) and torch.equal(camera.K, start.K)
        assert torch.allclose(camera.viewmat[:3, :3], torch.eye(3), atol=1e-6)


def test_directions_between_are_between():
    turn = torch.tensor(0.6)
    turned = torch.eye(4)
    turned[0, 0], turned[0, 2], turned[2, 0], turned[2, 2] = turn.cos(), turn.sin(), -turn.sin(), turn.cos()
    turned[0, 3] = 1.0
    for camera in between([Camera(torch.eye(4), K, 32, 24), Camera(turned, K, 32, 24)], 6):
        rotation = camera.viewmat[:3, :3]
        assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6) and float(torch.linalg.det(rotation)) > 0
        assert 0.1 < math.acos(float(rotation[0, 0])) < 0.5


def test_cameras_between_depend_on_the_seed_alone():
    first, again, other = (torch.stack([c.viewmat for c in between(rig(), 5, seed)]) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ConfigError, match="two or more"):
        between(rig(1), 3)


def test_the_path_closes_and_moves():
    path = spiral(rig(), 64, focus=3.0)
    steps = [float((a.centre - b.centre).norm()) for a, b in zip(path, path[1:] + path[:1], strict=True)]
    assert max(steps) < 3 * min(steps)


def test_it_starts_where_its_formula_says():
    start = spiral(rig(), 8, focus=4.0, radius=0.3)[0]
    assert torch.allclose(start.centre, torch.tensor([0.3, 0, 0]), atol=1e-6)
    assert math.asin(float(start.viewmat[0, 2])) == pytest.approx(math.atan(0.3 / 4), abs=1e-5)


def test_a_lone_camera_has_a_path_too():
    assert float(spiral(rig(1), 4, focus=2.0)[0].centre.norm()) == pytest.approx(0.2, rel=1e-3)


def test_look_at_keeps_the_image_upright():
    view = look_at(torch.tensor([1.0, 2.0, -3.0]), torch.zeros(3))
    above = view @ torch.tensor([0.0, -1.0, 0.0, 1.0])
    assert above[1] < 0  # image y points down
    with pytest.raises(ConfigError, match="upright"):
        look_at(torch.zeros(3), torch.tensor([0.0, 5.0, 0.0]))


def test_wrong_arguments_are_refused():
    for arguments in ([], 3, 1.0), (rig(), 0, 1.0), (rig(), 3, 0.0):
        with pytest.raises(ConfigError, match="spiral"):
            spiral(arguments[0], arguments[1], focus=arguments[2])
