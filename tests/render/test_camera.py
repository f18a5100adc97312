"""Cameras that cannot be are refused where they are made, in words that help."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from moegs.errors import ShapeError
from moegs.render import Camera
from tests.render.scenes import camera


def changed(matrix: torch.Tensor, row: int, column: int, value: float) -> torch.Tensor:
    matrix = matrix.clone()
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"viewmat": torch.full((4, 4), torch.nan)}, "expected finite matrices"),
        ({"viewmat": camera().viewmat.T}, "last row of viewmat.*is it transposed, as 3D Gaussian Splatting keeps it"),
        ({"viewmat": torch.diag(torch.tensor([2.0, 2, 2, 1]))}, "expected a rotation in viewmat, R Rᵀ is off by 3"),
        ({"viewmat": np.eye(4)}, r"Camera\.viewmat: expected a tensor, got ndarray"),
        ({"viewmat": torch.eye(3)}, r"Camera\.viewmat: expected \[4, 4\], got \[3, 3\]"),
        ({"K": torch.zeros(3, 3)}, "expected focal lengths above 0"),
        ({"K": changed(camera().K, 0, 1, 3.0)}, "without skew"),
        ({"K": camera().K.T}, "without skew"),
        ({"width": 64.0}, "expected width and height as integers, got 64.0"),
        ({"height": 0}, "at least 1x1"),
        ({"near": 2.0, "far": 1.0}, "expected 0 < near < far"),
    ],
)
def test_what_is_no_camera_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        replace(camera(), **change)


def test_sizes_may_be_numpys_integers() -> None:
    assert replace(camera(), width=np.int64(8), height=np.int32(6)).width == 8


def test_calibrations_are_never_exact_and_cameras_can_be_learnt() -> None:
    viewmat = (camera().viewmat * torch.tensor([[1.001], [1.001], [1.001], [1.0]])).requires_grad_()
    assert replace(camera(), viewmat=viewmat).viewmat is viewmat
    made = torch.func.vmap(lambda v: Camera(v, camera().K, 8, 8).centre)(torch.stack([viewmat, viewmat]))
    assert made.shape == (2, 3)
