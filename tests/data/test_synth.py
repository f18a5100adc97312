from __future__ import annotations

import numpy as np
import pytest
import torch

from moegs.data import check, colmap, synthesize
from moegs.data.synth import generate
from moegs.data.synth._rig import look_at, rig
from moegs.data.synth._shapes import Body, turned
from moegs.data.synth._stage import Stage
from moegs.data.synth._textures import Texture, fractal_noise, value_noise
from moegs.data.synth._tracer import Tracer
from moegs.errors import ConfigError
from moegs.render.camera import rays
from tests.data.conftest import CAMERAS, FRAMES, SIZE
from tests.data.support import project

PAINT = Texture((0.2, 0.4, 0.6), (0.2, 0.4, 0.6), "plain", grain=0.0)


def depth(capture, camera: int) -> np.ndarray:
    return np.load(capture / "depth" / f"cam{camera:02d}.npy", allow_pickle=False).astype(np.float32)


def test_writes_the_layout_of_n3v(capture):
    names = sorted(str(f.relative_to(capture)) for f in capture.rglob("*") if f.is_file())
    cameras = [f"cam{i:02d}" for i in range(CAMERAS)]
    model = [f"colmap_0/sparse/0/{name}.bin" for name in ("cameras", "images", "points3D")]
    expected = [f"{c}.mp4" for c in cameras] + [f"depth/{c}.npy" for c in cameras] + model
    assert names == sorted([*expected, "poses_bounds.npy", "README.txt"])
    assert "N3V layout" in (capture / "README.txt").read_text()
    assert all(f.severity == "info" for f in check(capture))


def test_points_have_the_depth_and_colour_of_what_is_seen(capture, scene):
    """Noise, silhouettes and the codec spoil a few; a wrong convention would spoil all."""
    for index in range(CAMERAS):
        view = scene.view(index, 0)
        pixels, z = project(view.camera, scene.cloud.points)
        column, row = pixels.floor().long().T
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < SIZE[0]) & (row < SIZE[1])
        true = torch.from_numpy(depth(capture, index)[0])[row[inside], column[inside]]
        assert float(((true - z[inside]).abs() / true).median()) < 0.01
        seen = view.image[row[inside], column[inside]]
        assert float((seen - scene.cloud.colors[inside]).abs().median()) < 12 / 255


def test_depth_agrees_between_cameras(capture, scene):
    """What two cameras see of the static floor is one surface: most of one depth map warps onto the other."""
    first, second = scene.cameras[0], scene.cameras[2]
    for frame in (0, FRAMES - 1):
        ray = rays(first)
        z_of_ray = ray[..., 3:] @ first.viewmat[2, :3]
        points = ray[..., :3] + ray[..., 3:] * (torch.from_numpy(depth(capture, 0)[frame]) / z_of_ray)[..., None]
        pixels, z = project(second, points.reshape(-1, 3))
        column, row = pixels.floor().long().T
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < SIZE[0]) & (row < SIZE[1])
        there = torch.from_numpy(depth(capture, 2)[frame])[row[inside], column[inside]]
        close = (there - z[inside]).abs() < 0.05 * there
        assert float(close.float().mean()) > 0.75


def test_the_sparse_model_has_whole_tracks(capture, scene):
    images = colmap.read_images(capture / "colmap_0/sparse/0")
    points = colmap.read_points(capture / "colmap_0/sparse/0")
    assert [image.name for image in images.values()] == [f"{name}.png" for name in scene.camera_names]
    counts = np.bincount(np.concatenate([image.point_ids for image in images.values()]), minlength=len(points) + 1)
    assert (counts[points.ids] >= 2).all() and (points.errors > 0).all() and np.median(points.errors) < 1
    for image, camera in zip(images.values(), scene.cameras, strict=True):
        order = torch.from_numpy(image.point_ids - 1)
        pixels, _ = project(camera, scene.cloud.points[order])
        assert np.median(np.abs(pixels.numpy() - image.xys)) < 1
        np.testing.assert_allclose(colmap.rotation(image.qvec), camera.viewmat[:3, :3].numpy(), atol=1e-5)


def test_the_same_arguments_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        synthesize(tmp_path / name, cameras=2, frames=2, size=(16, 16), seed=3, progress=False)
    files = [f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file()]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_the_seed_matters(tmp_path):
    for seed in (0, 1):
        synthesize(tmp_path / str(seed), cameras=2, frames=1, size=(16, 16), seed=seed, progress=False)
    first, second = ((tmp_path / str(seed) / "cam00.mp4").read_bytes() for seed in (0, 1))
    assert first != second


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(generate, "_write_calibration", fail)
    with pytest.raises(OSError, match="disk full"):
        synthesize(tmp_path / "out", cameras=2, frames=1, size=(16, 16), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    synthesize(tmp_path / "out", cameras=2, frames=1, size=(16, 16), progress=False)
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(ConfigError, match="holds something already"):
        synthesize(tmp_path / "out", cameras=2, frames=1, size=(16, 16), progress=False)
    assert sorted((tmp_path / "out").rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cameras": 1}, "cameras: expected 2"), ({"frames": 0}, "frames"), ({"size": (8, 64)}, "size")],
)
def test_arguments_without_meaning_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [2, 3, 4, 12, 20])
def test_the_first_camera_stands_in_the_middle(count):
    cameras = rig(count, (64, 48), np.random.default_rng(0))
    assert len(cameras) == count
    centres = torch.stack([camera.centre for camera in cameras])
    middle = centres[1:].mean(0) if count > 4 else centres[0]
    assert float((centres[0] - middle).norm()) < 1.5
    assert len({tuple(c.tolist()) for c in centres}) == count


def test_a_camera_looks_at_its_target():
    view = look_at(np.array([1.0, -2.0, -3.0]), np.array([0.5, 0.0, 2.0]))
    target = view[:3, :3] @ [0.5, 0.0, 2.0] + view[:3, 3]
    assert target[2] > 0 and np.abs(target[:2]).max() < 1e-12
    assert view[1, 1] > 0 and np.linalg.det(view[:3, :3]) == pytest.approx(1)  # the scene's down is the camera's


def one_ray(body: Body, origin, direction) -> tuple[float, np.ndarray]:
    origin, direction = np.array(origin, float), np.array([direction], np.float32)
    t = body.hit(origin, direction)
    if not np.isfinite(t[0]):
        return float(t[0]), np.zeros(3)
    return float(t[0]), body.surface((origin + direction * t[0]).astype(np.float32))[1][0]


def test_rays_hit_spheres_where_they_should():
    ball = Body("sphere", (0.0, 0.0, 5.0), (2.0, 2.0, 2.0), PAINT)
    t, normal = one_ray(ball, (0, 0, 0), (0, 0, 1))
    assert t == pytest.approx(3) and normal.tolist() == pytest.approx([0, 0, -1])
    assert one_ray(ball, (0, 0, 0), (0, 0, 2))[0] == pytest.approx(1.5)  # in units of the ray, whatever its length
    assert one_ray(ball, (0, 2.1, 0), (0, 0, 1))[0] == np.inf
    assert one_ray(ball, (0, 0, 9), (0, 0, 1))[0] == np.inf


def test_rays_hit_boxes_where_they_should():
    box = Body("box", (0.0, 0.0, 5.0), (1.0, 2.0, 1.0), PAINT)
    t, normal = one_ray(box, (0, 0, 0), (0, 0, 1))
    assert t == pytest.approx(4) and normal.tolist() == pytest.approx([0, 0, -1])
    t, normal = one_ray(box, (0, -5, 5), (0, 1, 0))
    assert t == pytest.approx(3) and normal.tolist() == pytest.approx([0, -1, 0])
    assert one_ray(box, (1.5, 0, 0), (0, 0, 1))[0] == np.inf
    turned_box = Body("box", (0.0, 0.0, 5.0), (1.0, 1.0, 1.0), PAINT, turned("y", np.pi / 4))
    assert one_ray(turned_box, (0, 0, 0), (0, 0, 1))[0] == pytest.approx(5 - 2**0.5, abs=1e-5)


def test_a_room_is_seen_from_inside():
    room = Body("room", (0.0, 0.0, 0.0), (1.0, 2.0, 3.0), PAINT)
    t, normal = one_ray(room, (0, 0, 0), (0, 0, 1))
    assert t == pytest.approx(3) and normal.tolist() == pytest.approx([0, 0, -1])


def test_noise_is_smooth_repeatable_and_between_zero_and_one():
    points = np.random.default_rng(0).uniform(-50, 50, (2000, 3)).astype(np.float32)
    noise = fractal_noise(points, 5)
    assert noise.min() >= 0 and noise.max() <= 1 and 0.4 < noise.mean() < 0.6 and noise.std() > 0.1
    np.testing.assert_array_equal(noise, fractal_noise(points, 5))
    assert np.abs(noise - fractal_noise(points, 6)).mean() > 0.05
    assert np.abs(value_noise(points, 5) - value_noise(points + 1e-3, 5)).max() < 0.01


def test_every_ray_ends_and_something_moves_in_every_way():
    camera = rig(2, (32, 24), np.random.default_rng(0))[0]
    layers = list(Tracer(camera).frames(Stage(), 10))
    assert all(np.isfinite(layer.depth).all() and layer.depth.min() > 1 for layer in layers)
    images = np.stack([layer.image() for layer in layers]).astype(int)
    assert (np.abs(images - np.median(images, 0)).max(-1) > 13).mean() > 0.05
    counts = [len(Stage().moving(frame / 10)) for frame in range(10)]
    assert counts[0] < counts[4] < counts[5] and counts[9] == counts[0]  # things come and go


def test_drawing_order_does_not_matter():
    camera = rig(2, (32, 24), np.random.default_rng(0))[0]
    stage, tracer = Stage(), Tracer(camera)
    bodies = stage.static() + stage.moving(0.5)
    empty = next(Tracer(camera).frames(stage, 1))
    blank = type(empty)(np.zeros_like(empty.color), np.full_like(empty.depth, np.inf))
    forwards, backwards = tracer.draw(blank.copy(), bodies), tracer.draw(blank.copy(), bodies[::-1])
    np.testing.assert_array_equal(forwards.image(), backwards.image())
