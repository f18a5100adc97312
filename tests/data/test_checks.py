from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from moegs.data import check, colmap, video
from moegs.data.findings import Finding
from tests.data.support import change_poses

MODEL = Path("colmap_0/sparse/0")


def of(findings: list[Finding], severity: str) -> list[Finding]:
    return [finding for finding in findings if finding.severity == severity]


def test_a_sound_capture_has_no_findings_but_its_summary(capture):
    (only,) = check(capture)
    assert only.severity == "info" and only.file == str(capture)
    assert only.message.startswith("4 cameras, 5 frames of 48x36 at 30 a second")


def test_a_folder_without_a_capture_is_one_error(tmp_path):
    (only,) = check(tmp_path)
    assert (only.severity, only.field) == ("error", "layout")


def test_several_faults_are_found_at_once_worst_first(damaged):
    def spoil(rows: np.ndarray) -> None:
        rows[0, 15], rows[2, 0] = -1.0, 3.0

    change_poses(damaged, spoil)
    (damaged / "cam01.mp4").write_bytes(b"")
    (damaged / MODEL / "points3D.bin").write_bytes(b"")
    fields = [(Path(f.file).name, f.field) for f in of(check(damaged), "error")]
    assert fields == [
        ("poses_bounds.npy", "row 0, bounds"),
        ("cam01.mp4", "video"),
        ("points3D.bin", "points"),
    ]


def test_damage_inside_a_video_is_only_found_by_decoding(damaged):
    raw = bytearray((damaged / "cam02.mp4").read_bytes())
    start = raw.find(b"mdat") + 4 + 700  # beyond the encoder's own notes
    raw[start : start + 600] = b"\xff" * 600
    (damaged / "cam02.mp4").write_bytes(raw)
    assert not of(check(damaged, decode=False), "error")
    (error,) = of(check(damaged), "error")
    assert Path(error.file).name == "cam02.mp4"


def test_unequal_frame_counts_name_the_odd_one(damaged):
    video.write(damaged / "cam02.mp4", list(video.probe(damaged / "cam02.mp4").frames(0, 4)), 30)
    (error,) = of(check(damaged), "error")
    assert (Path(error.file).name, error.field) == ("cam02.mp4", "frames") and error.message.startswith("4, but most")


def test_another_frame_rate_is_an_error(damaged):
    video.write(damaged / "cam02.mp4", list(video.probe(damaged / "cam02.mp4").frames(0, 5)), 25)
    (error,) = of(check(damaged), "error")
    assert error.field == "frame rate" and "[25.0, 30.0]" in error.message


def test_uneven_time_stamps_are_a_warning(damaged):
    frames = list(video.probe(damaged / "cam01.mp4").frames(0, 5))
    with av.open(str(damaged / "cam01.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv444p"
        for at, image in zip((0, 1, 2, 4, 5), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = at
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (warning,) = [f for f in check(damaged) if f.field == "time stamps"]
    assert warning.severity == "warning" and "before frame 3" in warning.message


def test_another_size_is_a_warning(damaged):
    frames = [frame[:, :40] for frame in video.probe(damaged / "cam02.mp4").frames(0, 5)]
    video.write(damaged / "cam02.mp4", frames, 30)
    fields = {(Path(f.file).name, f.field) for f in of(check(damaged), "warning")}
    assert ("cam02.mp4", "size") in fields and ("poses_bounds.npy", "row 2, height, width") in fields


def test_swapped_cameras_are_noticed(damaged):
    change_poses(damaged, lambda rows: rows[[0, 3, 2, 1]])
    fields = [f.field for f in of(check(damaged), "warning")]
    assert fields == ["row 1 (cam01)", "row 3 (cam03)"]


def test_a_camera_that_looks_elsewhere_is_an_error(damaged):
    def turn(rows: np.ndarray) -> None:
        matrix = rows[1, :15].reshape(3, 5)
        matrix[:, [1, 2]] *= -1  # half a turn about the camera's vertical axis

    change_poses(damaged, turn)
    (error,) = of(check(damaged), "error")
    assert error.field == "row 1 (cam01)" and "0% of the points" in error.message


def rewrite_points(capture: Path, **changes) -> None:
    points = colmap.read_points(capture / MODEL)
    fields = {"ids": points.ids, "xyz": points.xyz, "rgb": points.rgb, "errors": points.errors} | changes
    colmap.write_model(capture / MODEL, {}, {}, colmap.ColmapPoints(**fields))


def test_points_of_another_world_are_an_error_of_every_camera(damaged):
    rewrite_points(damaged, xyz=colmap.read_points(damaged / MODEL).xyz + 1000.0)
    assert len(of(check(damaged), "error")) == 4


def test_black_points_are_a_warning(damaged):
    rewrite_points(damaged, rgb=np.zeros((len(colmap.read_points(damaged / MODEL)), 3), np.uint8))
    assert "colours" in [f.field for f in of(check(damaged), "warning")]


def test_a_missing_held_out_camera_is_a_warning(damaged):
    (damaged / "cam00.mp4").unlink()
    change_poses(damaged, lambda rows: rows[1:])
    assert [f.field for f in of(check(damaged), "warning")] == ["held-out camera"]


def test_a_model_without_images_is_enough(damaged):
    for name in ("images.bin", "cameras.bin"):
        (damaged / MODEL / name).unlink()
    assert not of(check(damaged), "error") and not of(check(damaged), "warning")


@pytest.mark.parametrize("name", ["images.bin", "points3D.bin"])
def test_a_cut_model_is_an_error(damaged, name):
    raw = (damaged / MODEL / name).read_bytes()
    (damaged / MODEL / name).write_bytes(raw[: len(raw) // 2])
    assert name in {Path(f.file).name for f in of(check(damaged), "error")}


def test_findings_say_file_field_and_what(damaged):
    shutil.rmtree(damaged / "colmap_0")
    (error,) = of(check(damaged), "error")
    assert str(error) == f"{error.file}: {error.field}: {error.message}"
