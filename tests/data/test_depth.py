"""True depth beside a capture."""

from __future__ import annotations

import numpy as np
import pytest

from moegs.data.depth import has_depth, read_depth
from moegs.errors import DataError


def test_reads_one_frame(tmp_path):
    assert not has_depth(tmp_path)
    (tmp_path / "depth").mkdir()
    depth = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    np.save(tmp_path / "depth" / "cam00.npy", depth)
    assert has_depth(tmp_path)
    assert read_depth(tmp_path, "cam00", 1).tolist() == depth[1].tolist()
    with pytest.raises(DataError, match="no frame 2 among the 2"):
        read_depth(tmp_path, "cam00", 2)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array at all"])
def test_refuses_what_is_no_array(tmp_path, content):
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "cam00.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"cam00\.npy"):
        read_depth(tmp_path, "cam00", 0)
    with pytest.raises(DataError, match=r"cam01\.npy"):
        read_depth(tmp_path, "cam01", 0)


def test_refuses_other_arrays(tmp_path):
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "cam00.npy", np.zeros((2, 3, 4), np.int32))
    with pytest.raises(DataError, match="expected floats"):
        read_depth(tmp_path, "cam00", 0)
