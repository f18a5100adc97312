from __future__ import annotations

import numpy as np
import pytest
import torch

from moegs.errors import ShapeError
from moegs.report import contact_sheet, depth_colors, error_map, heat, to_uint8


def test_heat_is_monotone_in_lightness_and_saturates():
    ramp = heat(torch.linspace(0, 1, 64)[None])
    lightness = ramp[0] @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (lightness.diff() > 0).all()
    assert torch.equal(heat(torch.tensor([[-1.0, 5.0]])), heat(torch.tensor([[0.0, 1.0]])))


def test_heat_follows_its_range():
    assert torch.allclose(heat(torch.tensor([[3.0]]), 2, 4), heat(torch.tensor([[0.5]])))


def test_near_is_bright_and_nothing_is_black():
    picture = depth_colors(torch.tensor([[0.0, 1.0, 2.0, 8.0]]), near=1.0, far=10.0)
    brightness = picture.sum(-1)[0]
    assert brightness[0] == 0 and brightness[1] > brightness[2] > brightness[3] > 0
    assert torch.equal(depth_colors(torch.zeros(2, 2)), torch.zeros(2, 2, 3))


def test_an_error_map_shows_where_images_differ():
    image = torch.full((4, 4, 3), 0.5)
    target = image.clone()
    target[1, 2] = 0.75
    shown = error_map(image, target).sum(-1)
    assert (shown[1, 2] > shown[0, 0]) and (shown == shown[0, 0]).sum() == 15
    with pytest.raises(ShapeError, match="differ in shape"):
        error_map(image, target[:2])


def test_a_contact_sheet_holds_every_picture_unscaled():
    colors = [np.full((10, 20, 3), value, np.uint8) for value in (60, 120, 180)]
    sheet = contact_sheet([[("a", colors[0]), ("b", colors[1])], [("c", colors[2])]])
    for color in colors:
        rows, columns = np.where((sheet == color[0, 0]).all(-1))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (10, 20)
    with pytest.raises(ShapeError, match="at least one picture"):
        contact_sheet([[], []])


def test_eight_bits_round_and_clamp():
    assert to_uint8(torch.tensor([[[-1.0, 0.1, 2.0]]])).tolist() == [[[0, 26, 255]]]
