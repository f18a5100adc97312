from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moegs.data import colmap
from moegs.data.findings import CaptureError, CaptureFormatError


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras, two images, three points; the third point is seen by nobody."""
    folder = tmp_path_factory.mktemp("model")
    cameras = {
        1: colmap.ColmapCamera("PINHOLE", 64, 48, (50.0, 51.0, 32.0, 24.0)),
        7: colmap.ColmapCamera("OPENCV", 64, 48, (50.0, 51.0, 32.0, 24.0, 0.1, 0.2, 0.3, 0.4)),
    }
    q, t = np.array([0.5, 0.5, 0.5, 0.5]), np.array([1.0, 2.0, 3.0])
    images = {
        1: colmap.ColmapImage("cam00.png", 1, q, t, np.array([[1.5, 2.5], [3.5, 4.5]]), np.array([5, -1])),
        2: colmap.ColmapImage("with space.png", 7, q, -t, np.array([[7.0, 8.0], [9.0, 1.0]]), np.array([5, 6])),
    }
    xyz, rgb = np.arange(9.0).reshape(3, 3) / 7, np.arange(9, dtype=np.uint8).reshape(3, 3) * 20
    colmap.write_model(
        folder, cameras, images, colmap.ColmapPoints(np.array([5, 6, 9]), xyz, rgb, np.array([0.1, 0.2, 0.3]))
    )
    return folder


TEXT = {
    "cameras.txt": "# comment\n1 PINHOLE 64 48 50 51 32 24\n7 OPENCV 64 48 50 51 32 24 0.1 0.2 0.3 0.4\n",
    "images.txt": (
        "# comment\n1 0.5 0.5 0.5 0.5 1 2 3 1 cam00.png\n1.5 2.5 5 3.5 4.5 -1\n"
        "2 0.5 0.5 0.5 0.5 -1 -2 -3 7 with space.png\n\n"
    ),
    "points3D.txt": "# comment\n5 0 0.25 0.5 0 20 40 0.1 1 0 2 0\n9 1 2 3 120 140 160 0.3\n",
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    for name, content in TEXT.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_reads_what_it_wrote(model):
    points = colmap.read_points(model)
    assert points.ids.tolist() == [5, 6, 9]
    np.testing.assert_array_equal(points.xyz, np.arange(9.0).reshape(3, 3) / 7)
    assert points.rgb.tolist() == [[0, 20, 40], [60, 80, 100], [120, 140, 160]]
    assert points.errors.tolist() == [0.1, 0.2, 0.3]
    images = colmap.read_images(model)
    assert [image.name for image in images.values()] == ["cam00.png", "with space.png"]
    assert images[2].tvec.tolist() == [-1, -2, -3] and images[1].point_ids.tolist() == [5, -1]
    assert colmap.read_cameras(model)[7] == colmap.ColmapCamera(
        "OPENCV", 64, 48, (50.0, 51.0, 32.0, 24.0, 0.1, 0.2, 0.3, 0.4)
    )


def test_tracks_name_image_and_observation(model):
    raw = (model / "points3D.bin").read_bytes()
    assert struct.unpack_from("<Q", raw, 8 + 43) == (2,)
    assert struct.unpack_from("<4i", raw, 8 + 51) == (1, 0, 2, 0)


def test_reads_text(text):
    points = colmap.read_points(text)
    assert points.ids.tolist() == [5, 9] and points.xyz.tolist() == [[0, 0.25, 0.5], [1, 2, 3]]
    images = colmap.read_images(text)
    assert images[1].xys.tolist() == [[1.5, 2.5], [3.5, 4.5]] and images[2].name == "with space.png"
    assert len(images[2].xys) == 0
    assert colmap.read_cameras(text)[1].params == (50, 51, 32, 24)


READERS = {"points3D": colmap.read_points, "images": colmap.read_images, "cameras": colmap.read_cameras}


@pytest.mark.parametrize("stem", READERS)
def test_every_truncation_is_noticed(model, tmp_path, stem):
    raw = (model / f"{stem}.bin").read_bytes()
    for size in range(len(raw)):
        (tmp_path / f"{stem}.bin").write_bytes(raw[:size])
        with pytest.raises(CaptureFormatError, match=f"{stem}.bin"):
            READERS[stem](tmp_path)


@pytest.mark.parametrize("stem", READERS)
def test_trailing_bytes_are_noticed(model, tmp_path, stem):
    (tmp_path / f"{stem}.bin").write_bytes((model / f"{stem}.bin").read_bytes() + b"\0")
    with pytest.raises(CaptureFormatError, match="1 bytes left"):
        READERS[stem](tmp_path)


@pytest.mark.parametrize("stem", READERS)
@pytest.mark.parametrize("count", [2**62, 2**32, 1000])
def test_forged_counts_allocate_nothing(model, tmp_path, stem, count):
    raw = (model / f"{stem}.bin").read_bytes()
    (tmp_path / f"{stem}.bin").write_bytes(struct.pack("<Q", count) + raw[8:])
    with pytest.raises(CaptureFormatError, match=f"{count} entries"):
        READERS[stem](tmp_path)


def test_forged_track_length_is_noticed(model, tmp_path):
    raw = bytearray((model / "points3D.bin").read_bytes())
    struct.pack_into("<Q", raw, 8 + 43, 2**61)
    (tmp_path / "points3D.bin").write_bytes(raw)
    with pytest.raises(CaptureFormatError, match="track of point 0"):
        colmap.read_points(tmp_path)


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_no_bytes_make_the_readers_crash(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    for stem, read in READERS.items():
        (folder / f"{stem}.bin").write_bytes(data)
        with contextlib.suppress(CaptureError, CaptureFormatError):
            read(folder)


def test_no_points_are_an_error(tmp_path):
    (tmp_path / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(CaptureError, match="points3D.bin: points: expected at least one"):
        colmap.read_points(tmp_path)


def test_positions_that_are_not_finite_are_an_error(tmp_path):
    (tmp_path / "points3D.txt").write_text("5 0 nan 0 1 2 3 0.1\n")
    with pytest.raises(CaptureError, match="point 5"):
        colmap.read_points(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("points3D.txt", "5 0 0 0 1 2\n", "line 1: expected at least 8"),
        ("points3D.txt", "5 0 0 zero 1 2 3 0.1\n", "line 1: expected numbers"),
        ("points3D.txt", "5 0 0 0 1 2 256 0.1\n", "colours from 0 to 255"),
        ("points3D.txt", "\n", "at least one point"),
        ("images.txt", "1 1 0 0 0 0 0 0 1\n\n", "line 1: expected at least 10"),
        ("images.txt", "1 1 0 0 0 0 0 0 1 a.png\n1 2\n", "line 2: expected triples"),
        ("images.txt", "1 1 0 0 0 0 0 0 1 a.png\n\n1 1 0 0 0 0 0 0 1 b.png\n\n", "1 occurs twice"),
        ("cameras.txt", "1 PINHOLE 64 48 50\n", "PINHOLE has 4 parameters, got 1"),
        ("cameras.txt", "1 MAGIC 64 48 50\n", "unknown camera model"),
    ],
)
def test_malformed_text_names_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises((CaptureError, CaptureFormatError), match=message):
        READERS[name.removesuffix(".txt")](tmp_path)


def test_a_binary_file_under_a_text_name_is_noticed(model, tmp_path):
    (tmp_path / "points3D.txt").write_bytes(b"\xff\xfe" + (model / "points3D.bin").read_bytes())
    with pytest.raises(CaptureFormatError, match="not a text file"):
        colmap.read_points(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CaptureError, match="points3D.bin or points3D.txt"):
        colmap.read_points(tmp_path)


@given(arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 1e-3))
def test_quaternions_round_trip(q):
    rotation = colmap.rotation(q)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(colmap.rotation(colmap.quaternion(rotation)), rotation, atol=1e-12)


def test_a_quarter_turn_about_z_takes_x_to_y():
    rotation = colmap.rotation(np.array([1.0, 0, 0, 1.0]))
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)
