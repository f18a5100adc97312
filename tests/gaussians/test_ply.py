"""The strict INRIA .ply reader and writer."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moegs.errors import FormatError, MoegsError, ShapeError
from moegs.gaussians.container import Gaussians, covariances
from moegs.gaussians.ply import inria_names, read_ply, write_ply
from moegs.gaussians.quaternions import normalize
from moegs.gaussians.vertices import HEADER_LIMIT, read_header, read_vertices, write_vertices
from tests.render.scenes import random_gaussians


def gaussians(n: int = 3, k: int = 4, seed: int = 0) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(n, 3, generator=g),
        opacities=torch.rand(n, generator=g),
        sh=torch.randn(n, k, 3, generator=g),
        quats=normalize(torch.randn(n, 4, generator=g)),
        scales=torch.rand(n, 3, generator=g) + 0.01,
    )


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    path = tmp_path / "valid.ply"
    write_ply(gaussians(), path)
    return path


@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_round_trip(tmp_path: Path, n: int, k: int) -> None:
    before = gaussians(n, k)
    write_ply(before, tmp_path / "a.ply")
    after = read_ply(tmp_path / "a.ply")
    torch.testing.assert_close(after.means, before.means, rtol=0, atol=0)
    torch.testing.assert_close(after.sh, before.sh, rtol=0, atol=0)
    for name in ("opacities", "quats", "scales"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=1e-5, atol=1e-6)


def test_header_and_channel_order_are_inrias(tmp_path: Path) -> None:
    write_ply(gaussians(2, 4), tmp_path / "a.ply")
    columns = read_vertices(tmp_path / "a.ply")
    assert list(columns) == inria_names(9)
    sh = gaussians(2, 4).sh
    np.testing.assert_array_equal(columns["f_rest_1"], sh[:, 2, 0])  # all of red first
    np.testing.assert_array_equal(columns["f_rest_3"], sh[:, 1, 1])
    text = (tmp_path / "a.ply").read_bytes()
    assert text.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\n")


def test_covariances_are_decomposed(tmp_path: Path) -> None:
    g = gaussians(4)
    write_ply(Gaussians(means=g.means, opacities=g.opacities, sh=g.sh, covars=covariances(g)), tmp_path / "a.ply")
    torch.testing.assert_close(covariances(read_ply(tmp_path / "a.ply")), covariances(g), rtol=1e-4, atol=1e-5)


def test_opaque_and_empty_opacities_stay_finite(tmp_path: Path) -> None:
    g = gaussians(2)
    edge = Gaussians(means=g.means, opacities=torch.tensor([0.0, 1.0]), sh=g.sh, quats=g.quats, scales=g.scales)
    write_ply(edge, tmp_path / "a.ply")
    torch.testing.assert_close(read_ply(tmp_path / "a.ply").opacities, edge.opacities, rtol=0, atol=1e-6)


def test_covariances_that_are_not_finite_are_named(tmp_path: Path) -> None:
    g = random_gaussians(3)
    covars = covariances(g).clone()
    covars[1, 0, 0] = torch.nan
    with pytest.raises(FormatError, match="covars are not finite"):
        write_ply(replace(g, quats=None, scales=None, covars=covars), tmp_path / "a.ply")
    assert not (tmp_path / "a.ply").exists()


def test_a_scale_below_zero_is_drawn_and_written_as_its_size(tmp_path: Path) -> None:
    g = random_gaussians(3)
    write_ply(replace(g, scales=-g.scales), tmp_path / "a.ply")
    torch.testing.assert_close(read_ply(tmp_path / "a.ply").scales, g.scales)


def test_features_are_refused(tmp_path: Path) -> None:
    g = gaussians(2)
    with pytest.raises(ShapeError, match="features"):
        write_ply(
            Gaussians(g.means, g.opacities, g.sh, g.quats, g.scales, features=torch.zeros(2, 9)), tmp_path / "a.ply"
        )
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(valid: Path) -> None:
    before = valid.read_bytes()
    g = gaussians()
    with pytest.raises(FormatError, match="'x' of vertex 1 is nan"):
        means = g.means.clone()
        means[1, 0] = torch.nan
        write_ply(Gaussians(means, g.opacities, g.sh, g.quats, g.scales), valid)
    assert valid.read_bytes() == before and list(valid.parent.iterdir()) == [valid]


ATTACKS = {
    "missing": (None, "cannot be read"),
    "empty": (lambda b: b"", "begins with 'ply'"),
    "not a ply": (lambda b: b"solid cube\n" + b, "begins with 'ply'"),
    "CRLF": (lambda b: b.replace(b"\n", b"\r\n"), "end in CR"),
    "ascii": (lambda b: b.replace(b"binary_little_endian", b"ascii"), "binary_little_endian"),
    "big endian": (lambda b: b.replace(b"binary_little", b"binary_big"), "binary_little_endian"),
    "version": (lambda b: b.replace(b" 1.0", b" 2.0"), "binary_little_endian 1.0"),
    "truncated": (lambda b: b[:-1], "expected .* bytes"),
    "trailing": (lambda b: b + b"\0", "expected .* bytes"),
    "header only": (lambda b: b[: b.index(b"end_header") + 11], "expected .* bytes"),
    "no end": (lambda b: b[: b.index(b"end_header")], "end_header"),
    "forged count": (lambda b: b.replace(b"vertex 3", b"vertex 300000000000"), "expected .* bytes"),
    "huge count": (lambda b: b.replace(b"vertex 3", b"vertex " + b"9" * 40), "element vertex N"),
    "negative count": (lambda b: b.replace(b"vertex 3", b"vertex -3"), "element vertex N"),
    "no count": (lambda b: b.replace(b"element vertex 3\n", b""), "element vertex N"),
    "a face element": (
        lambda b: b.replace(b"property float x\n", b"element face 1\nproperty float x\n"),
        "element face",
    ),
    "a list": (lambda b: b.replace(b"float x", b"list uchar int x"), "property float NAME"),
    "doubles": (lambda b: b.replace(b"float x", b"double x"), "double x"),
    "dropped property": (lambda b: b.replace(b"property float opacity\n", b""), "expected .* bytes"),
    "renamed property": (lambda b: b.replace(b"float opacity", b"float opacitx"), "'opacity' is missing"),
    "twice": (lambda b: b.replace(b"float ny", b"float nx"), "'nx' appears more than once"),
    "not ascii": (lambda b: b.replace(b"float ny", b"float \xff"), "not ASCII"),
    "odd rest": (lambda b: b.replace(b"float f_rest_8", b"float f_best_8"), "9, 24 or 45"),
    "endless header": (lambda b: b"ply\n" + b"comment x\n" * (HEADER_LIMIT // 5), "end_header"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_damaged_files_give_one_clear_error(valid: Path, name: str) -> None:
    damage, message = ATTACKS[name]
    path = valid.with_name("damaged.ply")
    if damage:
        path.write_bytes(damage(valid.read_bytes()))
    with pytest.raises(FormatError, match=message) as caught:
        read_ply(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(valid: Path, value: float) -> None:
    columns = read_vertices(valid)
    columns["rot_2"][1] = value
    table = np.stack(list(columns.values()), 1).astype("<f4")
    data = valid.read_bytes()
    valid.write_bytes(data[: read_header(valid).size] + table.tobytes())
    with pytest.raises(FormatError, match=f"'rot_2' of vertex 1 is {value}"):
        read_ply(valid)


def test_scales_that_overflow(valid: Path) -> None:
    columns = read_vertices(valid)
    columns["scale_1"][0] = 1000.0
    write_vertices(valid, columns)
    with pytest.raises(FormatError, match="scale_"):
        read_ply(valid)


@pytest.mark.parametrize("drop", ["nx", "f_dc_2", "rot_3", "scale_0"])
def test_a_property_left_out_consistently(valid: Path, drop: str) -> None:
    columns = read_vertices(valid)
    del columns[drop]
    write_vertices(valid, columns)
    with pytest.raises(FormatError, match=f"'{drop}' is missing"):
        read_ply(valid)


def test_a_property_too_many(valid: Path) -> None:
    write_vertices(valid, read_vertices(valid) | {"semantic_0": np.zeros(3)})
    with pytest.raises(FormatError, match="'semantic_0' is not known"):
        read_ply(valid)


def test_comments_and_any_order_are_read(valid: Path) -> None:
    before = read_ply(valid)
    columns = read_vertices(valid)
    write_vertices(valid, dict(reversed(columns.items())))
    valid.write_bytes(valid.read_bytes().replace(b"element", b"comment made by hand\nelement", 1))
    assert torch.equal(read_ply(valid).means, before.means)


def test_columns_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="equal length"):
        write_vertices(tmp_path / "a.ply", {"x": np.zeros(2), "y": np.zeros(3)})


def test_a_forged_count_costs_no_memory(valid: Path) -> None:
    valid.write_bytes(valid.read_bytes().replace(b"vertex 3", b"vertex 3000000000"))
    tracemalloc.start()
    with pytest.raises(FormatError):
        read_ply(valid)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4), cut=st.integers(0, 2000))
def test_any_damage_loads_or_gives_our_error(valid: Path, edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(valid.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path = valid.with_name("fuzzed.ply")
    path.write_bytes(bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data))
    try:
        assert torch.isfinite(read_ply(path).scales).all()
    except MoegsError as error:
        assert str(path) in str(error)
