from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.data import PointCloud
from moegs.errors import ShapeError
from moegs.gaussians import Gaussians
from moegs.gaussians.cloud import drawn, joined


def test_selects_points_with_their_times():
    cloud = PointCloud(torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3), torch.tensor([0.0, 0.5]))
    second = cloud[torch.tensor([False, True])]
    assert len(cloud) == 2 and len(second) == 1 and repr(second) == "PointCloud(1 points, times)"
    assert second.spans is None and second.velocities is None
    assert second.points.tolist() == [[3, 4, 5]] and second.times is not None and second.times.tolist() == [0.5]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"points": torch.zeros(2, 2)}, "points"),
        ({"colors": torch.zeros(1, 3)}, "colors"),
        ({"times": torch.zeros(3)}, "times"),
        ({"spans": torch.zeros(1)}, "spans"),
        ({"velocities": torch.zeros(2)}, "velocities"),
        ({"points": torch.zeros(2, 3).double()}, "points"),
        ({"points": torch.tensor(1.0)}, "points"),
    ],
)
def test_refuses_wrong_shapes_and_dtypes(fields, name):
    cloud = PointCloud(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ShapeError, match=rf"PointCloud\.{name}"):
        replace(cloud, **fields)


def test_joining_fills_in_what_one_cloud_does_not_know():
    plain = PointCloud(torch.zeros(1, 3), torch.zeros(1, 3))
    brief = PointCloud(torch.ones(2, 3), torch.ones(2, 3), torch.full((2,), 0.5), torch.full((2,), 0.1), torch.ones(2, 3))
    both = joined(plain, brief)
    assert both.points[:, 0].tolist() == both.colors[:, 0].tolist() == [0, 1, 1]
    assert both.times[0].isnan() and both.times[1:].tolist() == [0.5, 0.5]
    assert both.spans.tolist() == pytest.approx([1, 0.1, 0.1]) and both.velocities.tolist() == [[0] * 3, [1] * 3, [1] * 3]
    neither = joined(plain, plain)
    assert len(neither) == 2 and neither.times is neither.spans is neither.velocities is None


def test_clouds_with_looks_are_not_joined():
    plain = PointCloud(torch.zeros(1, 3), torch.zeros(1, 3))
    one = Gaussians(plain.points, torch.ones(1), torch.zeros(1, 1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 3))
    with pytest.raises(ShapeError, match="without looks"):
        joined(plain, replace(plain, looks=one))


def test_points_are_drawn_in_their_order():
    cloud = PointCloud(torch.arange(300.0).reshape(100, 3), torch.zeros(100, 3))
    some = drawn(cloud, 40, seed=1)
    assert len(some) == 40 and (some.points[1:, 0] > some.points[:-1, 0]).all()
    assert torch.equal(drawn(cloud, 40, seed=1).points, some.points)
    assert not torch.equal(drawn(cloud, 40, seed=2).points, some.points)
    assert drawn(cloud, 100, seed=1) is cloud
