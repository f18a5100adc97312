"""Speed, memory and bytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from moegs.errors import ConfigError, DataError
from moegs.metrics import bytes_on_disk, peak_memory, take_turns, time_frames


def test_warmup_is_not_counted() -> None:
    seen: list[int] = []

    def render(i: int) -> None:
        seen.append(i)
        time.sleep(0.03 if len(seen) <= 2 else 0.001)

    speed = time_frames(render, frames=5, warmup=2)
    assert seen == [0, 1, 0, 1, 2, 3, 4] and speed.calls == 5
    assert 1.0 <= speed.min_ms <= speed.median_ms < 30.0 and speed.fps == pytest.approx(1000 / speed.median_ms)


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        time_frames(lambda i: None, frames=0)


def test_peak_memory_sees_an_allocation() -> None:
    pytest.importorskip("resource")
    before = peak_memory()
    block = bytearray(b"x") * (before + (32 << 20))
    assert peak_memory() >= before + (16 << 20) and len(block) > 0


def test_bytes_of_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"123")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert bytes_on_disk(tmp_path / "a") == 5 and bytes_on_disk(tmp_path) == 8
    with pytest.raises(DataError, match="nothing"):
        bytes_on_disk(tmp_path / "missing")


def test_renderers_take_turns() -> None:
    rounds: list[str] = []
    speeds = take_turns({name: lambda i, name=name: rounds.append(f"{name}{i}") for name in "abc"}, frames=12, warmup=1)
    found = [rounds[i : i + 3] for i in range(0, len(rounds), 3)]
    assert [sorted(names) for names in found] == [[f"{name}{i % 12}" for name in "abc"] for i in range(-1, 12)]
    followed = {(names[i][0], names[i + 1][0]) for names in found for i in (0, 1)}
    assert len(followed) == 6  # everyone comes after everyone
    assert list(speeds) == ["a", "b", "c"] and speeds["a"].calls == 12
    with pytest.raises(ConfigError, match="at least one frame"):
        take_turns({}, frames=0)
