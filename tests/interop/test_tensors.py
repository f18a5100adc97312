"""Torch files of strangers: tensors come out, anything else is refused before it can act."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moegs.errors import FormatError
from moegs.interop._tensors import expect, load_state, load_tensors


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The same archive with changed entries."""
    out = path.with_name("changed.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for entry in old.infolist():
            if (data := change(entry.filename, old.read(entry))) is not None:
                new.writestr(entry.filename, data)
    return out


def with_pickle(path: Path, data: bytes) -> Path:
    return rewritten(path, lambda name, old: data if name.endswith("data.pkl") else old)


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    path = tmp_path / "valid.pth"
    torch.save(OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(4)), path)
    return path


def test_state_dicts_and_modules(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    state = load_state(tmp_path / "a.pth")
    assert sorted(state) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert torch.equal(state["2.weight"], net[2].weight)


def test_checkpoint_tuples_with_numpy_scalars(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimiser = torch.optim.Adam([{"params": [weight], "lr": np.float64(0.1), "name": "xyz"}])
    weight.sum().backward()
    optimiser.step()
    torch.save(((3, weight, optimiser.state_dict(), np.float64(4.2), None, True), 7), tmp_path / "a.pth")
    (degree, tensor, state, extent, nothing, flag), iteration = load_tensors(tmp_path / "a.pth")
    assert (degree, extent, nothing, flag, iteration) == (3, 4.2, None, True, 7)
    assert type(extent) is float and type(tensor) is torch.Tensor and not tensor.requires_grad
    assert state["param_groups"][0]["lr"] == 0.1 and torch.equal(state["state"][0]["exp_avg"], torch.full((3, 2), 0.1))


def test_both_names_of_numpys_scalar_are_known(tmp_path: Path) -> None:
    torch.save(np.float64(4.2), tmp_path / "a.pth")
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        renamed = rewritten(tmp_path / "a.pth", lambda _, data, old=old, new=new: data.replace(old, new))
        assert load_tensors(renamed) == 4.2


def test_storages_of_other_devices_come_to_the_cpu(valid: Path) -> None:
    # a pickled string is preceded by its length
    moved = rewritten(valid, lambda _, b: b.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    assert load_state(moved)["a"].device.type == "cpu"


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, ("touch pwned",)), "system"),
        ((eval, ("open('pwned', 'w')",)), "__builtin__.eval"),
        ((getattr, ("text", "format")), "__builtin__.getattr"),
        ((torch.load, ("other.pth",)), "torch.serialization.load"),
        ((torch.nn.Linear, (2, 2)), "torch.nn.modules.linear.Linear"),
        ((bytearray, (1 << 40,)), "__builtin__.bytearray"),
        ((torch._utils._rebuild_meta_tensor_no_storage, (torch.float32, (1,), (1,), False)), "torch._utils"),
    ],
)
def test_code_is_refused_by_name(tmp_path: Path, monkeypatch, call: tuple[Any, ...], name: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(2), "b": Evil(*call)}, tmp_path / "evil.pth")
    with pytest.raises(FormatError, match=name) as caught:
        load_tensors(tmp_path / "evil.pth")
    assert "evil.pth" in str(caught.value) and not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"a": 1}, protocol=4),
        b"\x80\x02\x96" + (1 << 40).to_bytes(8, "little") + b".",  # a bytearray of a tebibyte
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo index of two billion
        b"\x80\x02K\x01\x85b.",
        b"\x80\x02" + b"(" * 1000,
        b"",
        b".",
    ],
)
def test_odd_pickles_are_refused_without_memory(valid: Path, data: bytes) -> None:
    path = with_pickle(valid, data)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"changed\.pth"):
            load_state(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_storage_that_claims_more_than_the_file_holds(valid: Path) -> None:
    forged = rewritten(valid, lambda name, b: b.replace(b"K\x06t", b"M\xff\xfft") if name.endswith("pkl") else b)
    with pytest.raises(FormatError, match="claims 65535 elements of FloatStorage, but holds 24 bytes"):
        load_state(forged)


def test_a_tensor_larger_than_its_storage(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pth")
    with pytest.raises(FormatError, match="a tensor of shape"):
        load_state(tmp_path / "a.pth")


def test_a_missing_storage(valid: Path) -> None:
    with pytest.raises(FormatError, match="storage '0'"):
        load_state(rewritten(valid, lambda name, b: None if name.endswith("data/0") else b))


def test_packed_archives_are_refused(valid: Path) -> None:
    bomb = rewritten(valid, lambda name, b: bytes(1 << 20) if name.endswith("/0") else b, zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="packed"):
        load_state(bomb)


def test_plain_pickles_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FormatError, match=r"a\.pth: not a readable torch file"):
        load_tensors(tmp_path / "a.pth")
    with pytest.raises(FormatError, match="cannot be read"):
        load_tensors(tmp_path / "b.pth")


def test_state_dicts_hold_finite_floats_only(tmp_path: Path) -> None:
    for value, message in (
        (torch.tensor([1.0, torch.nan]), "not finite"),
        (torch.tensor([1]), "tensor of torch.int64"),
        (3, "state dict of tensors"),
    ):
        torch.save({"a": value}, tmp_path / "a.pth")
        with pytest.raises(FormatError, match=message):
            load_state(tmp_path / "a.pth")


def test_shapes_are_named() -> None:
    with pytest.raises(FormatError, match=r"'w': expected shape \['n', 3\], got \[2, 2\]"):
        expect("f.pth", "w", torch.zeros(2, 2), None, 3)
    with pytest.raises(FormatError, match="'w': expected a tensor of floats, got NoneType"):
        expect("f.pth", "w", None, 3)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=3), cut=st.booleans())
def test_any_damage_loads_or_gives_our_error(valid: Path, edits: list[tuple[int, int]], cut: bool) -> None:
    data = bytearray(valid.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path = valid.with_name("fuzzed.pth")
    path.write_bytes(bytes(data[: edits[0][0] % len(data)] if cut else data))
    try:
        assert all(torch.isfinite(v).all() for v in load_state(path).values())
    except FormatError as error:
        assert str(path) in str(error)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3))
def test_any_damage_to_the_pickle(valid: Path, edits: list[tuple[int, int]]) -> None:
    with zipfile.ZipFile(valid) as archive:
        data = bytearray(archive.read("valid/data.pkl"))
    for place, value in edits:
        data[place % len(data)] = value
    try:
        load_tensors(with_pickle(valid, bytes(data)))
    except FormatError as error:
        assert "changed.pth" in str(error)


def test_reading_leaves_no_handle_on_the_file(valid: Path) -> None:
    state = load_state(valid)
    before = state["a"].clone()
    valid.write_bytes(bytes(len(valid.read_bytes())))
    assert torch.equal(state["a"], before) and state["a"].data_ptr() % 64 == 0
    torch.save(state, io.BytesIO())
