"""Quaternions, rotation matrices and covariances."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.gaussians import quaternions

numbers = st.floats(-5, 5, allow_nan=False)


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(st.lists(numbers, min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_matrices_are_rotations_and_come_back(values):
    quats = double([values])
    matrix = quaternions.to_matrix(quats)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64)[None])
    torch.testing.assert_close(quaternions.to_matrix(quaternions.from_matrix(matrix)), matrix)


def test_zero_quaternion_is_the_identity_without_gradient():
    quats = torch.zeros(1, 4, requires_grad=True)
    matrix = quaternions.to_matrix(quats)
    torch.testing.assert_close(matrix, torch.eye(3)[None])
    matrix.sum().backward()
    assert (quats.grad == 0).all()


def test_covariances_decompose():
    g = torch.Generator().manual_seed(0)
    quats = torch.randn(20, 4, generator=g, dtype=torch.float64)
    scales = torch.rand(20, 3, generator=g, dtype=torch.float64) + 0.1
    covars = quaternions.covariance(quats, scales)
    torch.testing.assert_close(quaternions.covariance(*quaternions.decompose(covars)), covars)


def test_gradcheck():
    quats = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scales = torch.full((3, 3), 0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quaternions.covariance, (quats, scales))
