from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from moegs.data import frames
from moegs.data.findings import CaptureError
from moegs.data.frames import Clip


@dataclass
class Source:
    """A source of made-up frames that counts how often it is read."""

    name: str = "cam00"
    path: Path = Path("cam00.mp4")
    width: int = 6
    height: int = 4
    count: int = 10
    fingerprint: str = "a"
    reads: int = 0
    breaks_at: int | None = None

    def picture(self, frame: int) -> np.ndarray:
        return np.random.default_rng(frame).integers(0, 256, (self.height, self.width, 3), np.uint8)

    def frames(self, start: int, count: int):
        self.reads += 1
        for frame in range(start, start + count):
            if frame == self.breaks_at:
                raise CaptureError(self.path, "frames", "broken")
            yield self.picture(frame)


def test_reads_in_any_order(cache):
    source = Source()
    store = frames.store([source], Clip(0, 10), cache)
    for frame in (7, 0, 9, 3, 7):
        np.testing.assert_array_equal(store.pixels(0, frame), source.picture(frame))
        image = store.image(0, frame)
        assert image.shape == (4, 6, 3) and image.dtype.is_floating_point and image.min() >= 0 and image.max() <= 1
        np.testing.assert_allclose(image.numpy() * 255, source.picture(frame), atol=1e-4)


def test_an_image_is_the_callers_to_change(cache):
    store = frames.store([Source()], Clip(0, 10), cache)
    store.image(0, 0).zero_()
    assert store.image(0, 0).sum() > 0


def test_a_range_starts_at_its_start(cache):
    source = Source()
    store = frames.store([source], Clip(4, 3), cache)
    assert store.n_frames == 3
    np.testing.assert_array_equal(store.pixels(0, 2), source.picture(6))
    for frame in (3, -1):
        with pytest.raises(IndexError, match="0 to 2"):
            store.pixels(0, frame)


def test_decodes_once(cache):
    source = Source()
    for _ in range(2):
        frames.store([source], Clip(0, 10), cache)
    assert source.reads == 1


@pytest.mark.parametrize("change", [{"fingerprint": "b"}, {"name": "cam01"}])
def test_another_source_is_another_file(cache, change):
    first = frames.store([Source()], Clip(0, 10), cache)
    assert frames.store([Source(**change)], Clip(0, 10), cache).paths != first.paths


@pytest.mark.parametrize("clip", [Clip(1, 9), Clip(0, 9), Clip(0, 10, 0.5)])
def test_another_range_or_scale_is_another_file(cache, clip):
    assert frames.store([Source()], clip, cache).paths != frames.store([Source()], Clip(0, 10), cache).paths


def test_a_damaged_cache_file_is_made_again(cache):
    source = Source()
    (path,) = frames.store([source], Clip(0, 10), cache).paths
    path.write_bytes(path.read_bytes()[:-5])
    store = frames.store([source], Clip(0, 10), cache)
    np.testing.assert_array_equal(store.pixels(0, 9), source.picture(9))
    assert source.reads == 2


def test_a_failure_leaves_nothing_behind(cache):
    with pytest.raises(CaptureError, match="broken"):
        frames.store([Source(breaks_at=5)], Clip(0, 10), cache)
    assert list(cache.iterdir()) == []


def test_frames_of_another_size_are_an_error(cache):
    class Wrong(Source):
        def picture(self, frame: int) -> np.ndarray:
            return np.zeros((5, 6, 3), np.uint8)

    with pytest.raises(CaptureError, match="frame size: expected 6x4, got 6x5"):
        frames.store([Wrong()], Clip(0, 10), cache)
    assert list(cache.iterdir()) == []


def test_scaling_averages(cache):
    class Checker(Source):
        def picture(self, frame: int) -> np.ndarray:
            board = np.indices((self.height, self.width)).sum(0) % 2
            return np.repeat((board * 200).astype(np.uint8)[..., None], 3, axis=2)

    store = frames.store([Checker(width=40, height=32)], Clip(0, 1, 0.25), cache)
    assert store.pixels(0, 0).shape == (8, 10, 3)
    assert np.abs(store.pixels(0, 0)[2:-2, 2:-2].astype(int) - 100).max() <= 3


def test_only_paths_travel_to_other_processes(cache):
    store = frames.store([Source(width=60, height=60)], Clip(0, 10), cache)
    store.pixels(0, 0)
    parcel = pickle.dumps(store)
    assert len(parcel) < 2000
    np.testing.assert_array_equal(pickle.loads(parcel).pixels(0, 3), store.pixels(0, 3))


def test_a_full_disk_is_told_before_decoding(cache, monkeypatch):
    monkeypatch.setattr(frames.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    source = Source()
    with pytest.raises(CaptureError, match="frame cache: .* MiB free"):
        frames.store([source], Clip(0, 10), cache)
    assert source.reads == 0


def test_a_file_in_the_place_of_the_cache_is_an_error(cache):
    cache.write_text("here first")
    with pytest.raises(CaptureError, match="frame cache: cannot be created"):
        frames.store([Source()], Clip(0, 10), cache)


def test_the_default_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert frames.default_cache() == tmp_path / "moegs" / "frames"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert frames.default_cache() == Path.home() / ".cache" / "moegs" / "frames"


def test_the_cache_knows_its_own_files_alone(cache):
    source = Source()
    kept = frames.store([source], Clip(0, 4), cache).paths[0]
    (cache / "notes.npy").write_bytes(b"mine")
    busy = kept.with_name(f".{kept.name}.{'0' * 12}.part")
    killed = kept.with_name(f".{kept.name}.{'1' * 12}.part")
    for unfinished in (busy, killed):
        unfinished.write_bytes(b"half")
    os.utime(killed, (0, 0))
    assert frames.cached_files(cache) == sorted([kept, killed])
    kept.unlink()
    np.testing.assert_array_equal(frames.store([source], Clip(0, 4), cache).pixels(0, 1), source.picture(1))
    assert frames.cached_files(cache / "nowhere") == []
