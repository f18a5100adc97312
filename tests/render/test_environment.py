"""The picture on the sphere around the world."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from moegs.errors import ConfigError, FormatError
from moegs.expert import load_expert, render_expert, save_expert
from moegs.render.camera import rays
from moegs.render.environment import environment
from moegs.route import VolumeRouter, render_experts, volume_expert
from tests.render.scenes import camera
from tests.route.test_mixture import make_expert


def look(direction: tuple[float, float, float], origin=(0.0, 0.0, 0.0)) -> torch.Tensor:
    unit = torch.nn.functional.normalize(torch.tensor(direction), dim=0)
    return torch.cat([torch.tensor(origin), unit])[None, None]


def ramp(rows: int = 64, columns: int = 128) -> torch.Tensor:
    """Red is the polar angle over pi, green the azimuth's share of a turn, at pixel centres."""
    v = (torch.arange(rows) + 0.5) / rows
    u = (torch.arange(columns) + 0.5) / columns
    return torch.stack([v[:, None].expand(rows, columns), u.expand(rows, columns), torch.ones(rows, columns)])


@pytest.mark.parametrize("direction", [(1.0, 0.2, 0.1), (0.1, 1.0, -0.4), (-0.5, -1.0, 0.7), (0.3, -0.2, -1.0)])
@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (20.0, -10.0, 5.0)])
def test_rays_meet_the_sphere(direction, origin):
    ray = look(direction, origin)
    o, d = ray[0, 0, :3].double(), ray[0, 0, 3:].double()
    low, high = 0.0, 200.0
    for _ in range(60):  # where the ray leaves the sphere, found by halving
        middle = (low + high) / 2
        low, high = (middle, high) if float((o + middle * d).norm()) < 60 else (low, middle)
    x, y, z = (o + low * d).tolist()
    expected = [math.acos(z / 60) / math.pi, math.atan2(y, x) / (2 * math.pi) + 0.5, 1.0]
    torch.testing.assert_close(environment(ramp(), ray)[0, 0], torch.tensor(expected), atol=1e-4, rtol=0)


def test_it_shows_where_nothing_is_in_front():
    expert = make_expert("reformulation", 40, 0)
    there = replace(expert, params=expert.params | {"environment.picture": ramp()})
    cam = camera()
    plain, behind = render_expert(expert, cam, 0.3), render_expert(there, cam, 0.3)
    expected = plain.color + (1 - plain.alpha)[..., None] * environment(ramp(), rays(cam))
    torch.testing.assert_close(behind.color, expected)
    both = render_experts([there, expert], cam, 0.3)
    assert torch.equal(both.color[0], behind.color) and torch.equal(both.color[1], plain.color)


def test_it_is_kept_and_checked_in_files(tmp_path):
    expert = make_expert("reformulation", 5, 0)
    there = replace(expert, params=expert.params | {"environment.picture": ramp()})
    save_expert(there, tmp_path / "a.safetensors")
    assert torch.equal(load_expert(tmp_path / "a.safetensors").params["environment.picture"], ramp())
    save_expert(replace(expert, params=expert.params | {"environment.picture": ramp()[:2]}), tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match=r"'environment.picture': expected floats of shape \[3, h, w\]"):
        load_expert(tmp_path / "b.safetensors")


def test_a_merged_scene_cannot_have_one():
    expert = make_expert("reformulation", 5, 0)
    there = replace(expert, params=expert.params | {"environment.picture": ramp()})
    with pytest.raises(ConfigError, match="environment"):
        volume_expert({"a": expert, "b": there}, VolumeRouter([5, 5]))
    bent = replace(expert, options=replace(expert.options, footprint="4dgs"))
    with pytest.raises(ConfigError, match="'b': its footprints .* footprint='camera'"):
        volume_expert({"a": expert, "b": bent}, VolumeRouter([5, 5]))
