from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from moegs.data import video
from moegs.data.findings import CaptureError, CaptureFormatError

FRAMES = 12


def pictures(count: int = FRAMES, height: int = 24, width: int = 32) -> list[np.ndarray]:
    """Smooth colours, each frame brighter than the one before."""
    ramp = np.stack(np.meshgrid(np.linspace(0, 100, width), np.linspace(0, 100, height)), axis=-1)
    base = np.concatenate([ramp, np.full((height, width, 1), 60.0)], axis=-1)
    return [(base + 8 * frame).astype(np.uint8) for frame in range(count)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    video.write(tmp_path / "cam00.mp4", pictures(), fps=30)
    return tmp_path / "cam00.mp4"


def faststart(source: Path, target: Path) -> None:
    """The same packets with the index in front, so that the file opens however short it is cut."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options={"movflags": "faststart"}) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)


def test_what_is_written_is_read(clip):
    source = video.probe(clip)
    assert (source.name, source.width, source.height, source.count, source.fps) == ("cam00", 32, 24, FRAMES, 30.0)
    decoded = list(source.frames(0, FRAMES))
    assert len(decoded) == FRAMES
    for frame, expected in zip(decoded, pictures(), strict=True):
        assert np.abs(frame.astype(int) - expected).mean() < 2.0


def test_a_range_is_the_same_as_a_slice(clip):
    source = video.probe(clip)
    everything = list(source.frames(0, FRAMES))
    np.testing.assert_array_equal(list(source.frames(3, 4)), everything[3:7])


def test_writing_is_repeatable(clip, tmp_path):
    video.write(tmp_path / "again.mp4", pictures(), fps=30)
    assert (tmp_path / "again.mp4").read_bytes() == clip.read_bytes()


def test_time_stamps_are_even(clip):
    np.testing.assert_allclose(video.timestamps(clip), np.arange(FRAMES) / 30, atol=1e-4)


@pytest.mark.parametrize("index_in_front", [False, True])
def test_a_cut_file_never_gives_fewer_frames(clip, tmp_path, index_in_front):
    whole, cut = list(video.probe(clip).frames(0, FRAMES)), tmp_path / "cut.mp4"
    faststart(clip, cut) if index_in_front else shutil.copy(clip, cut)
    raw, refused = cut.read_bytes(), 0
    for size in range(0, len(raw), 37):
        cut.write_bytes(raw[:size])
        try:
            decoded = list((source := video.probe(cut)).frames(0, source.count))
        except CaptureFormatError as error:
            assert error.finding.file == str(cut) and error.finding.field
            refused += 1
        else:  # what was cut off was not needed
            np.testing.assert_array_equal(decoded, whole)
    assert refused > (0.99 if index_in_front else 0.9) * len(range(0, len(raw), 37))


def test_noise_is_not_a_video(tmp_path):
    (tmp_path / "cam00.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(CaptureFormatError, match="cannot be decoded"):
        video.probe(tmp_path / "cam00.mp4")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CaptureError, match="cam07.mp4: file: expected a video"):
        video.probe(tmp_path / "cam07.mp4")


def test_the_fingerprint_follows_the_content(clip, tmp_path):
    before = video.probe(clip).fingerprint
    assert video.probe(clip).fingerprint == before
    raw = bytearray(clip.read_bytes())
    raw[-1] ^= 1
    clip.write_bytes(raw)
    assert video.probe(clip).fingerprint != before
