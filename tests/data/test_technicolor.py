from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moegs.data import check, colmap, load_scene, load_technicolor, technicolor
from moegs.data.findings import CaptureError, CaptureFormatError
from tests.data.support import project

CAMERAS, NUMBERS, SIZE = 12, (7, 8, 9), (20, 14)
HEADER = "focal cx cy aspect_ratio skew qw qx qy qz tx ty tz"


def picture(frame: int, camera: int) -> np.ndarray:
    return np.random.default_rng(100 * frame + camera).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def parameters() -> list[str]:
    """Cameras in a row along x, each with its own focal length and principal point."""
    return [f"{18 + i / 10} {9.25 + i / 8} {7.5 - i / 8} 1 0 1 0 0 0 {-0.1 * i} 0 0" for i in range(CAMERAS)]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    folder = tmp_path / "Studio"
    points = np.random.default_rng(0).uniform((-1, -1, 3), (2, 1, 6), (50, 3))
    cloud = colmap.ColmapPoints(np.arange(50), points, np.full((50, 3), 90, np.uint8), np.zeros(50))
    colmap.write_model(folder / "colmap_7" / "sparse" / "0", {}, {}, cloud)
    (folder / "cameras_parameters.txt").write_text("\n".join([HEADER, *parameters()]) + "\n")
    for number in NUMBERS:
        for camera in range(CAMERAS):
            Image.fromarray(picture(number, camera)).save(folder / f"Studio_undist_{number:05d}_{camera:02d}.png")
    return folder


def test_loads_a_scene(capture, cache):
    scene = load_technicolor(capture, cache_dir=cache)
    assert (scene.name, scene.layout, scene.n_frames) == ("Studio", "technicolor", 3)
    assert scene.camera_names[10] == "cam10" and scene.test == (10,) and len(scene.train) == 11
    assert scene.cloud.times is None and len(scene.cloud) == 50
    view = scene.view(4, 1)
    assert view.time == 1 / 3
    np.testing.assert_array_equal((view.image * 255).round().to(torch.uint8).numpy(), picture(8, 4))


def test_principal_points_may_lie_off_centre(capture, cache):
    camera = load_scene(capture, cache_dir=cache).cameras[4]
    pixel, z = project(camera, torch.tensor([[0.4, 0.0, 2.0], [1.4, 1.0, 2.0]]))
    assert z.tolist() == [2, 2]
    torch.testing.assert_close(pixel, torch.tensor([[9.75, 7.0], [9.75 + 9.2, 7.0 + 9.2]]))


def test_scaling_scales_the_principal_point(capture, cache):
    camera = load_scene(capture, scale=0.5, cache_dir=cache).cameras[4]
    assert (camera.width, camera.height) == (10, 7)
    torch.testing.assert_close(camera.K[:2, 2], torch.tensor([4.875, 3.5]))


def test_the_near_plane_stays_well_before_the_points(capture, cache):
    scene = load_scene(capture, cache_dir=cache)
    nearest = float(scene.cloud.points[:, 2].min())
    assert scene.bounds[0] == pytest.approx(0.9 * nearest, rel=0.02)
    assert scene.cameras[0].near == pytest.approx(0.18 * nearest, rel=0.02)


def test_frames_are_counted_from_zero_whatever_their_number(capture, cache):
    scene = load_scene(capture, start=1, frames=2, cache_dir=cache)
    np.testing.assert_array_equal(scene.frames.pixels(0, 0), picture(8, 0))


def test_a_model_is_named_by_the_number_of_its_frame(capture, cache):
    (capture / "colmap_7").rename(capture / "colmap_9")
    times = load_scene(capture, cache_dir=cache).cloud.times
    assert times is not None and times.unique().tolist() == pytest.approx([2 / 3])


def test_a_sound_capture_has_no_findings_but_its_summary(capture):
    assert [f.severity for f in check(capture)] == ["info"]


def test_a_gap_in_the_numbering_is_a_warning(capture):
    for file in capture.glob("*_00008_*.png"):
        file.unlink()
    (warning,) = [f for f in check(capture) if f.severity == "warning"]
    assert warning.field == "frames" and "frames 8 to 8 are missing" in warning.message


def edit(line: int, text: str):
    def apply(capture: Path) -> None:
        lines = (capture / "cameras_parameters.txt").read_text().splitlines()
        lines[line] = text
        (capture / "cameras_parameters.txt").write_text("\n".join(lines))

    return apply


def drop(pattern: str):
    return lambda capture: [file.unlink() for file in capture.glob(pattern)]


def cut(name: str):
    return lambda capture: (capture / name).write_bytes((capture / name).read_bytes()[:300])


def resize(name: str):
    return lambda capture: Image.new("RGB", (20, 15)).save(capture / name)


def deep(name: str):
    return lambda capture: Image.new("I;16", SIZE).save(capture / name)


def no_points(capture: Path) -> None:
    (capture / "colmap_7/sparse/0/points3D.bin").write_bytes(struct.pack("<Q", 0))


FRAME = "Studio_undist_00008_03.png"
BROKEN = {
    "missing camera": (drop("*_11.png"), "cameras_parameters.txt", "rows", r"missing: \*_11\.png"),
    "missing row": (lambda c: edit(12, "")(c), "cameras_parameters.txt", "rows", r"without a row: \*_11\.png"),
    "missing frame": (drop(FRAME), FRAME, "file", "no such frame"),
    "missing parameters": (drop("*.txt"), "cameras_parameters.txt", "file", "no such file"),
    "two scenes": (lambda c: (c / FRAME).rename(c / "Other_undist_00008_03.png"), "Studio", "frames", "of 2 scenes"),
    "no frames": (drop("*.png"), "Studio", "frames", "of 0 scenes"),
    "cut frame": (cut(FRAME), FRAME, "image", "cannot be decoded"),
    "cut first frame": (cut("Studio_undist_00007_03.png"), "Studio_undist_00007_03.png", "image", "cannot be decoded"),
    "other size": (resize(FRAME), FRAME, "size", "expected 20x14, got 20x15"),
    "deep": (deep(FRAME), FRAME, "mode", "expected 8 bits"),
    "columns": (edit(3, "1 2 3"), "cameras_parameters.txt", "line 4", "expected 12 numbers, got 3"),
    "text": (edit(3, "x " * 12), "cameras_parameters.txt", "line 4", "expected numbers"),
    "nan": (edit(3, "nan " * 12), "cameras_parameters.txt", "line 4", "finite"),
    "focal": (edit(2, "0 9 7 1 0 1 0 0 0 0 0 0"), "cameras_parameters.txt", "row 1, focal", "positive"),
    "quaternion": (edit(2, "18 9 7 1 0 1 1 0 0 0 0 0"), "cameras_parameters.txt", "row 1, quaternion", "unit length"),
    "no rows": (lambda c: (c / "cameras_parameters.txt").write_text(HEADER), "cameras_parameters.txt", "rows", "none"),
    "no points": (no_points, "points3D.bin", "points", "at least one"),
    "no model": (lambda c: (c / "colmap_7").rename(c / "other"), "points3D.bin", "file", "no sparse points"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damage_gives_one_error_with_file_and_field(capture, cache, case):
    damage, file, field, message = BROKEN[case]
    damage(capture)
    with pytest.raises((CaptureError, CaptureFormatError), match=message) as caught:
        load_technicolor(capture, cache_dir=cache)
    assert Path(caught.value.finding.file).name == file and caught.value.finding.field == field
    assert not list(cache.glob(".*")) if cache.exists() else True  # nothing half written
    assert caught.value.finding in check(capture)


def test_a_header_may_be_absent(tmp_path):
    (tmp_path / "cameras_parameters.txt").write_text("\n".join(parameters()))
    assert len(technicolor.read_parameters(tmp_path / "cameras_parameters.txt")) == CAMERAS


def test_points_behind_every_camera_do_not_stop_the_reader():
    row = np.array([20, 10, 7, 1, 0, 1, 0, 0, 0, 0, 0, 0.0])
    near, far = technicolor.depth_bounds(row, np.array([[0, 0, -1.0]]))
    assert 0 < near < far
