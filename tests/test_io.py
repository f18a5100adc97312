from __future__ import annotations

import json
import os
import stat

import pytest
import torch

from moegs.io import atomic_write, digest, finite, sha256, write_json


def test_a_file_appears_whole_and_readable_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "new" / "a.bin") as file:
            file.write(b"abc")
            assert not (tmp_path / "new" / "a.bin").exists()
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "new" / "a.bin").stat().st_mode) == 0o640
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(tmp_path / "a.bin") as file:
        file.write(b"half of the n")
        raise RuntimeError("stop")
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_json_that_cannot_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"psnr": float("inf")})
    assert not list(tmp_path.iterdir())


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    one = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    assert digest(one) == digest(dict(reversed(one.items())))
    assert digest(one) != digest(one | {"a": one["a"].view(3, 2)})
    assert digest(one) != digest(one | {"a": one["a"] + 1e-6})


def test_numbers_without_a_place_in_json_become_null(tmp_path):
    row = {"psnr": float("inf"), "loss": float("nan"), "step": 3, "name": "inf", "ssim": 0.5}
    write_json(tmp_path / "a.json", finite(row))
    assert json.loads((tmp_path / "a.json").read_text()) == row | {"psnr": None, "loss": None}
