from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.data import PointCloud
from moegs.errors import ShapeError


def test_selects_points_with_their_times():
    cloud = PointCloud(torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3), torch.tensor([0.0, 0.5]))
    second = cloud[torch.tensor([False, True])]
    assert len(cloud) == 2 and len(second) == 1
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
