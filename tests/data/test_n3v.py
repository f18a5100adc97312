from __future__ import annotations

import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moegs.data import check, colmap, load_n3v, load_scene, load_technicolor, n3v, video
from moegs.data.findings import CaptureError, CaptureFormatError
from moegs.data.scene import _extent
from moegs.errors import ConfigError, DataError
from tests.data.conftest import CAMERAS, FRAMES, SIZE
from tests.data.support import change_poses, color_difference, project

MODEL = Path("colmap_0/sparse/0")


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in folder.rglob("*"))


def test_loads_a_scene(scene, capture):
    assert (scene.name, scene.layout, scene.n_frames, scene.fps) == ("tiny", "n3v", FRAMES, 30.0)
    assert scene.camera_names == ("cam00", "cam01", "cam02", "cam03")
    assert scene.test == (0,) and scene.train == (1, 2, 3)
    assert scene.cloud.times is None and len(scene.cloud) > 300
    assert repr(scene) == (
        f"Scene(tiny: {CAMERAS} cameras, 48x36, cam00 held out; {FRAMES} frames at 30 a second; {len(scene.cloud):,} points)"
    )
    view = scene.view(2, 3)
    assert (view.camera_index, view.frame, view.time) == (2, 3, 3 / FRAMES)
    assert view.image.shape == (SIZE[1], SIZE[0], 3) and view.image.dtype == torch.float32
    torch.testing.assert_close(view.image, scene.image(2, 3), rtol=0, atol=0)


def test_the_conventions_are_those_of_llff(tmp_path):
    """A camera at (1, 2, 3) that looks along +x, with its x axis along −y: down is −z."""
    row = np.zeros((3, 5))
    row[:, 0], row[:, 1], row[:, 2] = (0, 0, -1), (0, -1, 0), (-1, 0, 0)  # down, right, backwards
    row[:, 3], row[:, 4] = (1, 2, 3), (40, 80, 50)
    source = video.VideoSource("cam00", tmp_path / "cam00.mp4", 160, 80, 1, 30.0)
    camera = n3v.camera(tmp_path, 0, np.concatenate([row.reshape(-1), [2.0, 9.0]]), source)
    torch.testing.assert_close(camera.centre, torch.tensor([1.0, 2.0, 3.0]))
    pixel, z = project(camera, torch.tensor([[6.0, 1.0, 3.0], [6.0, 2.0, 2.0]]))
    assert z.tolist() == [5, 5]
    # Twice the declared size: focal 100, principal point (80, 40); one unit right or down at depth 5 is 20 pixels.
    torch.testing.assert_close(pixel, torch.tensor([[100.0, 40.0], [80.0, 60.0]]))
    assert camera.near == pytest.approx(0.4) and camera.far > 1e9


def test_rows_and_cameras_are_each_others_inverse(scene, capture):
    rows = n3v.read_poses(capture / n3v.POSES)
    for row, camera in zip(rows, scene.cameras, strict=True):
        np.testing.assert_allclose(n3v.pose_row(camera, *row[15:]), row, atol=1e-5)


def test_points_lie_where_the_pictures_show_them(scene):
    for camera in range(CAMERAS):
        assert color_difference(scene, camera, scene.cloud) < 12


def test_scale_and_range(capture, cache):
    part = load_scene(capture, scale=0.51, start=2, frames=2, cache_dir=cache)
    assert part.n_frames == 2 and part.image(0, 0).shape == (18, 24, 3)
    camera = part.cameras[1]
    assert (camera.width, camera.height) == (24, 18)
    assert float(camera.K[0, 2]) == 12 and float(camera.K[1, 2]) == 9
    assert float(camera.K[0, 0]) == pytest.approx(0.74 * 24, rel=1e-5)
    assert part.time(1) == 0.5


def test_a_range_shows_the_right_frames(capture, cache, scene):
    part = load_scene(capture, start=2, frames=2, cache_dir=cache)
    torch.testing.assert_close(part.image(1, 1), scene.image(1, 3), rtol=0, atol=0)


@pytest.mark.parametrize(("test", "expected"), [("cam02", (2,)), (3, (3,)), (["cam03", 0], (0, 3)), ([], ())])
def test_holds_out_whom_it_is_told(capture, cache, test, expected):
    scene = load_scene(capture, test=test, cache_dir=cache)
    assert scene.test == expected
    assert scene.train == tuple(i for i in range(CAMERAS) if i not in expected)


def test_the_extent_is_that_of_the_training_cameras(scene):
    centres = torch.stack([scene.cameras[i].centre for i in scene.train])
    assert scene.extent == pytest.approx(1.1 * float((centres - centres.mean(0)).norm(dim=1).max()))


def test_the_extent_of_a_narrow_rig_is_that_of_what_it_sees(damaged, cache, scene):
    file = damaged / "poses_bounds.npy"
    table = np.load(file)
    centres = table[:, 3:15:5]  # camera to world, three rows of five
    table[:, 3:15:5] = centres.mean(0) + 0.02 * (centres - centres.mean(0))
    np.save(file, table)
    narrow = load_scene(damaged, cache_dir=cache)
    away = torch.cdist(torch.stack([narrow.cameras[i].centre for i in narrow.train]), narrow.cloud.points).median()
    assert narrow.extent == pytest.approx(0.3 * float(away), rel=1e-5) and narrow.extent > 5 * narrow.spread
    assert scene.spread == scene.extent  # wide enough for what it sees
    far = replace(narrow.cloud, points=narrow.cloud.points + 3000.0)
    assert _extent(shifted_cameras(narrow, 3000.0), far) == pytest.approx(narrow.extent, rel=1e-2)


def shifted_cameras(scene, by):
    moved = []
    for camera in (scene.cameras[i] for i in scene.train):
        viewmat = camera.viewmat.double().clone()
        viewmat[:3, 3] -= viewmat[:3, :3].sum(1) * by
        moved.append(replace(camera, viewmat=viewmat.to(camera.viewmat)))
    return moved


def test_one_training_camera_still_has_an_extent(capture, cache):
    assert load_scene(capture, test=[0, 1, 2], cache_dir=cache).extent > 1


def test_loading_leaves_the_capture_alone(damaged, cache):
    before = listing(damaged)
    load_scene(damaged, cache_dir=cache)
    check(damaged)
    assert listing(damaged) == before


def test_without_a_cache_folder_the_environment_decides(capture, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scene = load_scene(capture)
    assert all(path.parent == tmp_path / "moegs" / "frames" for path in scene.frames.paths)


def test_text_models_are_read_too(damaged, cache, scene):
    points = colmap.read_points(damaged / MODEL)
    rows = zip(points.ids, points.xyz, points.rgb, points.errors, strict=True)
    lines = [f"{i} {' '.join(map(repr, x.tolist()))} {' '.join(map(str, c.tolist()))} {e}" for i, x, c, e in rows]
    shutil.rmtree(damaged / "colmap_0")
    (damaged / "sparse" / "0").mkdir(parents=True)
    (damaged / "sparse" / "0" / "points3D.txt").write_text("\n".join(lines))
    cloud = load_scene(damaged, cache_dir=cache).cloud
    torch.testing.assert_close(cloud.points, scene.cloud.points, rtol=0, atol=0)
    torch.testing.assert_close(cloud.colors, scene.cloud.colors, rtol=0, atol=0)


def test_points_of_several_frames_carry_times(damaged, cache, scene):
    shutil.copytree(damaged / "colmap_0", damaged / "colmap_3")
    n = len(scene.cloud)
    times = load_scene(damaged, cache_dir=cache).cloud.times
    assert times is not None and times.tolist() == pytest.approx([0.0] * n + [3 / FRAMES] * n)
    later = load_scene(damaged, start=1, frames=4, cache_dir=cache).cloud
    assert later.times is not None and later.times.tolist() == [0.5] * n
    assert load_scene(damaged, start=3, cache_dir=cache).cloud.times is None
    assert load_scene(damaged, start=1, frames=1, cache_dir=cache).cloud.times is None  # frame 0 stands in


def drop(name: str):
    return lambda path: (path / name).unlink()


def poses(change):
    return lambda path: change_poses(path, change)


def put(row: int, column: int, value: float):
    def change(rows: np.ndarray) -> None:
        rows[row, column] = value

    return poses(change)


def write(name: str, content: bytes):
    return lambda path: (path / name).write_bytes(content)


def cut(name: str, keep: float):
    return lambda path: os.truncate(path / name, int(keep * (path / name).stat().st_size))


def shorter(count: int):
    def apply(path: Path) -> None:
        frames = list(video.probe(path / "cam02.mp4").frames(0, count))
        video.write(path / "cam02.mp4", frames, 30)

    return apply


def mirror(rows: np.ndarray) -> None:
    rows[1, [0, 5, 10]] *= -1


def forged_npy(path: Path) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 17)}
    with open(path / "poses_bounds.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 1000)


def pickled(path: Path) -> None:
    np.save(path / "poses_bounds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


BROKEN = {
    "missing camera": (drop("cam02.mp4"), "poses_bounds.npy", "rows", r"missing: cam02\.mp4"),
    "missing row": (poses(lambda rows: rows[:3]), "poses_bounds.npy", "rows", "3 rows, but 4 videos"),
    "missing poses": (drop("poses_bounds.npy"), "poses_bounds.npy", "file", "no such file"),
    "missing points": (lambda path: shutil.rmtree(path / "colmap_0"), "points3D.bin", "file", "no sparse points"),
    "short video": (shorter(3), "cam02.mp4", "frames", "cam02 has 3 frames, cam00 has 5"),
    "cut video": (cut("cam02.mp4", 0.5), "cam02.mp4", "video", "cannot be decoded"),
    "empty video": (write("cam02.mp4", b""), "cam02.mp4", "video", "cannot be decoded"),
    "shape": (poses(lambda rows: rows[:, :16]), "poses_bounds.npy", "shape", r"\[cameras, 17\], got \[4, 16\]"),
    "flat": (poses(lambda rows: rows.reshape(-1)), "poses_bounds.npy", "shape", r"got \[68\]"),
    "integers": (poses(lambda rows: rows.astype(int)), "poses_bounds.npy", "dtype", "expected floats"),
    "nan": (put(2, 3, np.nan), "poses_bounds.npy", "row 2, column 3", "expected a finite number, got nan"),
    "infinite": (put(0, 16, np.inf), "poses_bounds.npy", "row 0, column 16", "got inf"),
    "near": (put(1, 15, -1.0), "poses_bounds.npy", "row 1, bounds", "0 < near < far"),
    "far": (put(1, 16, 1e-3), "poses_bounds.npy", "row 1, bounds", "0 < near < far"),
    "focal": (put(3, 14, 0.0), "poses_bounds.npy", "row 3, height, width, focal", "positive"),
    "rotation": (put(1, 0, 2.0), "poses_bounds.npy", "row 1, rotation", "not orthonormal"),
    "mirror": (poses(mirror), "poses_bounds.npy", "row 1, rotation", "mirrors"),
    "pickle": (pickled, "poses_bounds.npy", "array", "not a readable .npy"),
    "forged size": (forged_npy, "poses_bounds.npy", "array", "not a readable .npy"),
    "cut poses": (cut("poses_bounds.npy", 0.8), "poses_bounds.npy", "array", "not a readable .npy"),
    "empty poses": (write("poses_bounds.npy", b""), "poses_bounds.npy", "array", "not a readable .npy"),
    "no points": (write(f"{MODEL}/points3D.bin", struct.pack("<Q", 0)), "points3D.bin", "points", "at least one"),
    "cut points": (cut(f"{MODEL}/points3D.bin", 0.5), "points3D.bin", "", "cut short|ends after"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damage_gives_one_error_with_file_and_field(damaged, cache, case):
    damage, file, field, message = BROKEN[case]
    damage(damaged)
    with pytest.raises((CaptureError, CaptureFormatError), match=message) as caught:
        load_scene(damaged, cache_dir=cache)
    assert Path(caught.value.finding.file).name == file and field in caught.value.finding.field
    assert not cache.exists() or not list(cache.iterdir())  # nothing half written
    findings = [f for f in check(damaged) if f.severity == "error"]
    assert any(Path(f.file).name == file for f in findings)


def test_frames_that_all_have_can_be_loaded_from_unequal_videos(damaged, cache):
    shorter(3)(damaged)
    assert load_scene(damaged, frames=3, cache_dir=cache).n_frames == 3


def test_without_the_usual_test_camera_another_must_be_named(damaged, cache):
    (damaged / "cam00.mp4").unlink()
    change_poses(damaged, lambda rows: rows[1:])
    with pytest.raises(CaptureError, match="held-out camera: no cam00"):
        load_scene(damaged, cache_dir=cache)
    assert load_scene(damaged, test="cam03", cache_dir=cache).test == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale"),
        ({"scale": 1.5}, "scale"),
        ({"start": -1}, "start ≥ 0"),
        ({"frames": 0}, "at least one frame"),
        ({"start": 5}, "do not fit into the 5 frames"),
        ({"start": 2, "frames": 4}, "do not fit into the 5 frames"),
        ({"test": "cam09"}, "no camera 'cam09'"),
        ({"test": 4}, "no camera 4"),
        ({"test": [0, 1, 2, 3]}, "none is left"),
    ],
)
def test_arguments_without_meaning_are_refused(capture, cache, options, message):
    with pytest.raises(ConfigError, match=message):
        load_scene(capture, cache_dir=cache, **options)


def test_the_named_loaders_insist(capture, cache):
    assert load_n3v(capture, cache_dir=cache).layout == "n3v"
    with pytest.raises(CaptureError, match="expected technicolor, got n3v"):
        load_technicolor(capture, cache_dir=cache)


def test_what_is_no_capture_is_said_to_be_none(tmp_path):
    with pytest.raises(CaptureError, match="no such folder"):
        load_scene(tmp_path / "nothing")
    with pytest.raises(CaptureError, match=r"not recognised; expected one of n3v: cam00\.mp4 ….*technicolor"):
        load_scene(tmp_path)


def test_cameras_and_points_alone_take_no_decoding(capture, cache, scene):
    bare = load_scene(capture, cache_dir=cache, decode=False)
    assert not cache.exists() and bare.n_frames == scene.n_frames and bare.extent == scene.extent
    assert torch.equal(bare.cloud.points, scene.cloud.points)
    with pytest.raises(DataError, match="decode=False"):
        bare.image(0, 0)
