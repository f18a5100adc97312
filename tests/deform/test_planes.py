"""HexPlane sampling: the torch twin against a loop over the definition, the native kernel against the twin."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moegs.deform._planes import PAIRS, sample_planes, sample_planes_reference
from moegs.errors import ShapeError
from moegs.render import native

needs_native = pytest.mark.skipif(not native.available(), reason="the native module is not built")

Levels = list[list[Tensor]]


def planes(sizes: list[tuple[int, int, int, int]], channels: int, dtype: torch.dtype = torch.float32) -> Levels:
    """Random levels; a size is the number of cells along x, y, z, t."""
    generator = torch.Generator().manual_seed(channels)
    options = {"generator": generator, "dtype": dtype}
    return [[0.5 + torch.rand(1, channels, size[b], size[a], **options) for a, b in PAIRS] for size in sizes]


def points(n: int, seed: int = 0, spread: float = 1.2, time: float | None = None) -> Tensor:
    """Random coordinates, some of them beyond the border; with ``time`` all share it."""
    coords = spread * (2 * torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)) - 1)
    if time is not None:
        coords[:, 3] = time
    return coords


def convert(levels: Levels, **options) -> Levels:
    return [[plane.detach().to(**options) for plane in level] for level in levels]


def gradients(sampler, levels: Levels, coords: Tensor, weights: Tensor) -> list[Tensor]:
    """Features, then the gradients to the coordinates and every plane."""
    levels = [[plane.detach().requires_grad_() for plane in level] for level in levels]
    coords = coords.detach().requires_grad_()
    features = sampler(levels, coords)
    leaves = [coords, *(plane for level in levels for plane in level)]
    return [features.detach(), *torch.autograd.grad((features * weights.to(features)).sum(), leaves)]


def assert_agrees(levels: Levels, coords: Tensor) -> None:
    weights = torch.randn(len(coords), len(levels) * levels[0][0].shape[1], generator=torch.Generator().manual_seed(1))
    got = gradients(sample_planes, levels, coords, weights)
    double = convert(levels, dtype=torch.float64)
    expected = gradients(sample_planes_reference, double, coords.double(), weights.double())
    for value, reference in zip(got, expected, strict=True):
        assert value.shape == reference.shape
        scale = float(reference.abs().max()) if reference.numel() else 0.0
        torch.testing.assert_close(value.double(), reference, atol=2e-5 * scale + 1e-12, rtol=1e-3)


def off_the_grid(coords: Tensor, sizes: list[tuple[int, int, int, int]]) -> Tensor:
    """Move coordinates away from cell centres, where float32 and float64 may fall into different cells."""
    for size in sizes:
        for axis, cells in enumerate(size):
            at = (coords[:, axis] + 1) / 2 * (cells - 1)
            near = (at - at.round()).abs() < 1e-3
            coords[near, axis] += 4e-3
    return coords


def by_definition(levels: Levels, coord: list[float]) -> list[float]:
    features: list[float] = []
    for level in levels:
        for c in range(level[0].shape[1]):
            product = 1.0
            for plane, (a, b) in zip(level, PAIRS, strict=True):
                product *= bilinear(plane[0, c].tolist(), coord[a], coord[b])
            features.append(product)
    return features


def bilinear(cells: list[list[float]], x: float, y: float) -> float:
    def place(value: float, count: int) -> tuple[int, int, float]:
        at = min(max((value + 1) / 2 * (count - 1), 0.0), count - 1.0)
        return int(at), min(int(at) + 1, count - 1), at - int(at)

    (x0, x1, u), (y0, y1, v) = place(x, len(cells[0])), place(y, len(cells))
    upper = (1 - u) * cells[y0][x0] + u * cells[y0][x1]
    return (1 - v) * upper + v * ((1 - u) * cells[y1][x0] + u * cells[y1][x1])


def test_reference_is_the_definition() -> None:
    levels, coords = planes([(3, 4, 5, 2), (6, 2, 3, 7)], channels=2, dtype=torch.float64), points(8).double()
    expected = torch.tensor([by_definition(levels, coord) for coord in coords.tolist()], dtype=torch.float64)
    torch.testing.assert_close(sample_planes_reference(levels, coords), expected)
    torch.testing.assert_close(sample_planes(levels, coords), expected)


def test_reference_gradient() -> None:
    levels, coords = planes([(3, 4, 2, 3)], channels=2, dtype=torch.float64), points(4, spread=0.9).double()
    leaves = [plane.requires_grad_() for plane in levels[0]]

    def features(coords: Tensor, *leaves: Tensor) -> Tensor:
        return sample_planes_reference([leaves], coords)

    assert torch.autograd.gradcheck(features, (coords.requires_grad_(), *leaves))


@pytest.mark.parametrize("time", [None, -1.0, 0.317, 1.0])
@pytest.mark.parametrize("channels", [1, 3, 16, 20, 32])
def test_native_agrees(isa: str, channels: int, time: float | None) -> None:
    sizes = [(7, 5, 6, 4), (13, 9, 11, 4)]
    assert_agrees(planes(sizes, channels), off_the_grid(points(60, time=time), sizes))


@pytest.mark.parametrize("time", [None, 0.4])
@pytest.mark.parametrize("channels", [5, 16])
def test_channels_last_planes(isa: str, channels: int, time: float | None) -> None:
    sizes = [(5, 7, 4, 6)]
    levels, coords = planes(sizes, channels), off_the_grid(points(40, time=time), sizes)
    last = convert(levels, memory_format=torch.channels_last)
    assert_agrees(last, coords)
    weights = torch.ones(40, channels)
    first, second = gradients(sample_planes, levels, coords, weights), gradients(sample_planes, last, coords, weights)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(*[st.integers(1, 6)] * 4),
    channels=st.integers(1, 18),
    n=st.integers(0, 20),
    time=st.none() | st.floats(-1.5, 1.5),
)
def test_any_size(size: tuple[int, int, int, int], channels: int, n: int, time: float | None) -> None:
    assert_agrees(planes([size], channels), off_the_grid(points(n, time=time), [size]))


def test_border_coordinates_have_no_gradient() -> None:
    levels = planes([(4, 4, 4, 4)], channels=3)
    coords = torch.tensor([[-1.0, 1.0, 2.0, -3.0], [math.inf, -math.inf, 0.1, 0.2]])
    features, slope, *_ = gradients(sample_planes, levels, coords, torch.ones(2, 3))
    assert features.isfinite().all() and (slope[0] == 0).all() and (slope[1, :2] == 0).all()
    assert (slope[1, 2:] != 0).all()


@pytest.mark.parametrize("sampler", [sample_planes, sample_planes_reference])
@pytest.mark.parametrize("axis", [0, 3])
def test_a_nan_coordinate_spoils_its_own_point_only(sampler, axis: int) -> None:
    levels, coords = planes([(4, 4, 4, 4)], channels=3), points(5, time=0.3)
    clean = gradients(sampler, levels, coords[1:], torch.ones(4, 3))
    coords[0, axis] = math.nan
    features, slope, *to_planes = gradients(sampler, levels, coords, torch.ones(5, 3))
    assert features[0].isnan().all() and (slope[0] == 0).all()
    for got, expected in zip([features[1:], slope[1:], *to_planes], clean, strict=True):
        torch.testing.assert_close(got, expected)


@needs_native
@pytest.mark.parametrize("time", [None, 0.25])
def test_same_bits_for_any_thread_count(monkeypatch: pytest.MonkeyPatch, time: float | None) -> None:
    levels, coords = planes([(20, 20, 20, 6), (40, 40, 40, 6)], channels=32), points(3000, time=time)
    weights = torch.randn(3000, 64, generator=torch.Generator().manual_seed(2))

    def run(threads: int) -> list[Tensor]:
        monkeypatch.setenv("MOEGS_NUM_THREADS", str(threads))
        return gradients(sample_planes, levels, coords, weights)

    alone = run(1)
    for threads in (2, 5):
        for value, expected in zip(run(threads), alone, strict=True):
            assert torch.equal(value, expected)


@needs_native
def test_non_contiguous_inputs() -> None:
    levels, coords = planes([(5, 6, 7, 8)], channels=4), points(30)
    strided = [[plane.transpose(2, 3).contiguous().transpose(2, 3) for plane in level] for level in levels]
    wide = torch.cat([coords, coords], dim=1)[:, ::2][:, [0, 2, 1, 3]]
    weights = torch.ones(30, 4)
    again = gradients(sample_planes, strided, wide, weights)
    for value, expected in zip(again, gradients(sample_planes, levels, wide.contiguous(), weights), strict=True):
        assert torch.equal(value, expected)


def test_only_what_needs_a_gradient_gets_one() -> None:
    levels, coords = planes([(5, 6, 7, 8)], channels=4), points(30, time=0.5)
    everything = gradients(sample_planes, levels, coords, torch.ones(30, 4))
    leaf = coords.clone().requires_grad_()
    (slope,) = torch.autograd.grad(sample_planes(levels, leaf).sum(), leaf)
    assert torch.equal(slope, everything[1])
    levels[0][2].requires_grad_()
    (to_plane,) = torch.autograd.grad(sample_planes(levels, coords).sum(), levels[0][2])
    assert torch.equal(to_plane, everything[4])


@needs_native
def test_backward_twice_gives_the_same() -> None:
    levels, coords = planes([(5, 6, 7, 8)], channels=4), points(30, time=0.5).requires_grad_()
    leaf = levels[0][1].requires_grad_()
    loss = sample_planes(levels, coords).sum()
    first = torch.autograd.grad(loss, [coords, leaf], retain_graph=True)
    (slope,) = torch.autograd.grad(loss, coords, retain_graph=True)
    second = torch.autograd.grad(loss, [coords, leaf])
    assert torch.equal(slope, first[0])
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_bad_arguments_are_named() -> None:
    levels, coords = planes([(5, 6, 7, 8)], channels=4), points(3)
    with pytest.raises(ShapeError, match=r"coords as \[n, 4\]"):
        sample_planes(levels, coords[:, :3])
    with pytest.raises(ShapeError, match="level 0 has 5 planes"):
        sample_planes([levels[0][:5]], coords)
    with pytest.raises(ShapeError, match="at least one level"):
        sample_planes([], coords)
    with pytest.raises(ShapeError, match=r"plane yz of level 0.*disagree"):
        sample_planes([[*levels[0][:3], levels[0][0], *levels[0][4:]]], coords)
    with pytest.raises(ShapeError, match="plane xy of level 0 is"):
        sample_planes(levels, coords.double())
    with pytest.raises(ShapeError, match=r"expected \[1, 4"):
        sample_planes([[levels[0][0], levels[0][1][:, :2], *levels[0][2:]]], coords)
