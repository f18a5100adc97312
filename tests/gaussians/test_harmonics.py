"""Spherical harmonics: orthonormality, gradients, colours."""

from __future__ import annotations

import math

import pytest
import torch

from moegs.errors import ShapeError
from moegs.gaussians import harmonics


def test_harmonics_are_orthonormal_over_the_sphere():
    n = 200_000
    i = torch.arange(n, dtype=torch.float64) + 0.5
    z, phi = 1 - 2 * i / n, math.pi * (1 + 5**0.5) * i
    r = (1 - z * z).sqrt()
    values = harmonics.basis(torch.stack([r * phi.cos(), r * phi.sin(), z], dim=-1), 3)
    gram = values.T @ values * (4 * math.pi / n)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-4, rtol=0)


def test_dc_shows_its_colour_everywhere():
    rgb = torch.rand(5, 3)
    directions = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    torch.testing.assert_close(harmonics.colors(harmonics.from_rgb(rgb)[:, None], directions), rgb)
    torch.testing.assert_close(harmonics.to_rgb(harmonics.from_rgb(rgb)), rgb)


def test_gradcheck():
    g = torch.Generator().manual_seed(0)
    sh = torch.randn(3, 16, 3, generator=g, dtype=torch.float64, requires_grad=True)
    directions = torch.randn(3, 3, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(harmonics.evaluate, (sh, directions))


def test_unknown_degree_is_refused():
    with pytest.raises(ShapeError, match="degree"):
        harmonics.basis(torch.ones(1, 3), 4)
