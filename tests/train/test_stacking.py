"""Cameras kept from the experts: how they are chosen, and that nobody sees the others' views."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.data import Scene
from moegs.errors import ConfigError
from moegs.render import Camera
from moegs.train.views import stacking_split
from tests.train.scenes import small_scene


def rig(places: list[tuple[float, float]], held_out: int = 0) -> Scene:
    """A scene whose cameras stand in one plane."""
    k = torch.tensor([[20.0, 0, 10], [0, 20, 10], [0, 0, 1]])
    cameras = []
    for x, y in places:
        viewmat = torch.eye(4)
        viewmat[:2, 3] = -torch.tensor([x, y])
        cameras.append(Camera(viewmat, k, 20, 20))
    names = tuple(f"cam{i:02d}" for i in range(len(places)))
    train = tuple(i for i in range(len(places)) if i != held_out)
    return replace(small_scene(), cameras=tuple(cameras), camera_names=names, train=train, test=(held_out,))


def test_the_middle_of_each_cluster_is_kept():
    arms = [(x + d, 0.0) for x in (0.0, 10.0, 20.0) for d in (0.0, 1.0, 2.0)]
    scene = rig([(5.0, 5.0), *arms])
    experts, router = stacking_split(scene, 3)
    assert router == (2, 5, 8)
    assert experts == (1, 3, 4, 6, 7, 9)


def test_a_swap_mends_what_greed_began():
    # greed takes the middle camera first; the best pair leaves it
    assert stacking_split(rig([(9.0, 9.0), (-2, 0), (-1.9, 0), (0, 0), (1.9, 0), (2, 0)]), 2)[1] in [(1, 4), (2, 4), (2, 5)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=9), st.data())
def test_every_training_camera_goes_to_one_side(places, data):
    scene = rig(places, held_out=data.draw(st.integers(0, len(places) - 1)))
    n = data.draw(st.integers(1, len(scene.train) - 1))
    experts, router = stacking_split(scene, n)
    assert len(router) == n and tuple(sorted(experts + router)) == scene.train
    assert stacking_split(scene, n) == (experts, router)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=4, max_size=7, unique=True))
def test_no_swap_would_stand_more_evenly(places):
    scene = rig(places)
    centres = torch.stack([scene.cameras[i].centre for i in scene.train]).double()
    distances = torch.cdist(centres, centres)
    chosen = [scene.train.index(i) for i in stacking_split(scene, 2)[1]]
    cost = distances[:, chosen].min(1).values.sum()
    for k in range(2):
        for i in range(len(centres)):
            if i not in chosen:
                other = [*chosen[:k], i, *chosen[k + 1 :]]
                assert distances[:, other].min(1).values.sum() >= cost - 1e-6


@pytest.mark.parametrize("n", [0, 2, -1])
def test_both_sides_need_a_camera(n):
    with pytest.raises(ConfigError, match="to keep for the router: expected 1 to 1 training cameras"):
        stacking_split(small_scene(), n)
