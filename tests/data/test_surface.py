"""Points on what stands still: held against the true depth of the synthetic scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moegs.data import PointCloud, Scene, SurfaceConfig, load_scene, surface_points, synthesize
from moegs.errors import ConfigError
from tests.data.support import Blind, color_difference, surface_error

CONFIG = SurfaceConfig(cameras=3, depths=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("surface") / "clip", cameras=8, frames=6, size=(128, 96), progress=False)


@pytest.fixture(scope="module")
def scene(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return load_scene(folder, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def found(scene: Scene) -> PointCloud:
    return surface_points(scene, CONFIG, progress=False)


def test_points_lie_on_surfaces(folder, scene, found):
    errors = surface_error(folder, scene, found.points, 0)
    assert len(found) > 0.2 * 3 * 128 * 96
    assert (errors < 0.03).float().mean() > 0.9


def test_they_are_where_the_captures_own_points_leave_gaps(scene, found):
    def covered(points):
        return len(torch.unique((points / 0.1).floor(), dim=0))

    assert covered(torch.cat([found.points, scene.cloud.points])) > 2 * covered(scene.cloud.points)


def test_colours_are_those_of_the_pictures(scene, found):
    own = found[: 128 * 32]  # of the first camera that is followed, which is the first of all
    assert color_difference(scene, scene.train[0], own) < 5 < color_difference(scene, scene.train[0], own, shift=8.0)


def test_is_the_same_every_time(scene, found):
    again = surface_points(scene, CONFIG, progress=False)
    assert torch.equal(again.points, found.points) and torch.equal(again.colors, found.colors)


def test_one_camera_finds_nothing(scene):
    assert len(surface_points(scene, CONFIG, cameras=scene.train[:1], progress=False)) == 0
    with pytest.raises(ConfigError, match="at least one"):
        surface_points(scene, CONFIG, cameras=(), progress=False)
    with pytest.raises(ConfigError, match="camera 0 is no training camera"):
        surface_points(scene, CONFIG, cameras=(0, 1), progress=False)


def test_two_cameras_are_enough(folder, scene):
    errors = surface_error(folder, scene, surface_points(scene, CONFIG, cameras=scene.train[:2], progress=False).points, 0)
    assert len(errors) > 1000 and (errors < 0.05).float().mean() > 0.7


def of_pictures(scene: Scene, picture: torch.Tensor) -> Scene:
    """The scene with the same picture at every camera and moment."""

    class Pictures:
        def image(self, camera, frame):
            return picture

    return replace(scene, frames=Pictures())


def test_pictures_without_texture_have_no_depth(scene):
    assert len(surface_points(of_pictures(scene, torch.full((96, 128, 3), 0.7)), CONFIG, progress=False)) == 0


def test_what_lies_outside_the_depths_searched_is_not_found(scene):
    """Infinitely far pictures: turned cameras see the same from everywhere, and the rig's points are near."""
    turned = replace(scene, cameras=tuple(replace(c, viewmat=_unturned(c.viewmat)) for c in scene.cameras))
    noise = torch.rand(96, 128, 3, generator=torch.Generator().manual_seed(0))
    assert len(surface_points(of_pictures(turned, noise), CONFIG, progress=False)) < 0.01 * 3 * 128 * 96


def _unturned(viewmat: torch.Tensor) -> torch.Tensor:
    """A camera at the same place that looks along z."""
    centre = -viewmat[:3, :3].T @ viewmat[:3, 3]
    return torch.cat([torch.cat([torch.eye(3), -centre[:, None]], dim=1), viewmat[3:]])


def test_cameras_may_differ_in_size(folder, scene):
    index = scene.train[1]
    small = scene.cameras[index].resized(96, 72)
    cameras = tuple(small if i == index else c for i, c in enumerate(scene.cameras))

    class Sized:
        def image(self, camera, frame):
            whole = scene.image(camera, frame)
            if camera != index:
                return whole
            return torch.nn.functional.interpolate(whole.movedim(-1, 0)[None], (72, 96), mode="area")[0].movedim(0, -1)

    points = surface_points(replace(scene, cameras=cameras, frames=Sized()), CONFIG, progress=False).points
    assert len(points) > 0.2 * 3 * 128 * 96 and (surface_error(folder, scene, points, 0) < 0.03).float().mean() > 0.85


def test_never_looks_at_held_out_cameras(scene, found):
    assert 0 not in scene.train
    blinded = replace(scene, frames=Blind(scene.frames.paths, scene.n_frames))
    assert torch.equal(surface_points(blinded, CONFIG, progress=False).points, found.points)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cameras": 1}, {"depths": 2}, {"window": 4}, {"difference": 0.0}, {"difference": 0.2}, {"agreeing": -1}, {"size": 0}
    ],
)
def test_numbers_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SurfaceConfig(**wrong)
