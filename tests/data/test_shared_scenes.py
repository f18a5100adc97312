"""The readers against captures that others have made."""

from __future__ import annotations

import pytest
import torch

from moegs.data import check, load_scene
from tests.data.support import color_difference
from tests.support import shared


@pytest.mark.parametrize(
    ("name", "layout", "cameras", "test", "size"),
    [("kitchen_small", "n3v", 20, 0, (320, 240)), ("tokyo_small", "technicolor", 16, 10, (224, 119))],
)
def test_points_fall_on_their_colours(name, layout, cameras, test, size, cache):
    scene = load_scene(shared(f"scenes/{name}"), frames=2, cache_dir=cache)
    camera = scene.cameras[test]
    assert (scene.layout, len(scene.cameras), scene.test) == (layout, cameras, (test,))
    assert (camera.width, camera.height) == size
    here = color_difference(scene, test, scene.cloud)
    assert here < 6  # half a pixel off in either direction is worse
    assert here < min(color_difference(scene, test, scene.cloud, shift) for shift in (-0.5, 0.5))


@pytest.mark.parametrize("name", ["kitchen_small", "tokyo_small"])
def test_there_is_nothing_to_find(name):
    assert [finding.severity for finding in check(shared(f"scenes/{name}"), decode=False)] == ["info"]


def test_a_scaled_load_shows_the_same_scene(cache):
    path = shared("scenes/tokyo_small")
    whole = load_scene(path, frames=1, cache_dir=cache)
    half = load_scene(path, frames=1, scale=0.5, cache_dir=cache)
    assert half.image(10, 0).shape == (60, 112, 3)
    assert color_difference(half, 10, half.cloud) < 12
    assert torch.allclose(half.image(10, 0).mean(), whole.image(10, 0).mean(), atol=2e-3)
