"""Points of what moves or appears: held against the true depth and the true paths of the synthetic scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moegs.data import PointCloud, Scene, load_scene, synthesize
from moegs.data.sweep import SweepConfig, _candidates, moving_points, with_moving_points
from moegs.data.synth._stage import Stage
from moegs.errors import ConfigError
from tests.data.support import Blind, surface_error

CONFIG = SweepConfig(candidates=4000, moments=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("sweep") / "clip", cameras=8, frames=24, size=(128, 96), progress=False)


@pytest.fixture(scope="module")
def scene(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return load_scene(folder, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def found(scene: Scene) -> PointCloud:
    return moving_points(scene, CONFIG, progress=False)


def test_points_lie_on_surfaces(folder, scene, found):
    moments = [(frame, found.points[found.times == scene.time(frame)]) for frame in range(scene.n_frames)]
    errors = torch.cat([surface_error(folder, scene, points, frame) for frame, points in moments])
    assert len(errors) == len(found) > 300
    assert (errors < 0.03).float().mean() > 0.7 and (errors < 0.1).float().mean() > 0.85


def test_finds_what_flies_past_and_how_fast(scene, found):
    """The thrown ball is there for a quarter of the clip and has no point in the first frame."""
    near, gaps = 0, []
    for frame in range(scene.n_frames):
        time = scene.time(frame)
        if (where := ball(time)) is None or (later := ball(time + 0.01)) is None:
            continue
        mine = (found.times == time) & (torch.linalg.vector_norm(found.points - where, dim=1) < 0.45)
        near += int(mine.sum())
        gaps.append(torch.linalg.vector_norm(found.velocities[mine] - (later - where) / 0.01, dim=1))
    speed = torch.linalg.vector_norm((ball(0.58) - ball(0.57)) / 0.01)
    assert near >= 20
    assert torch.cat(gaps).median() < 0.35 * speed


def ball(time: float) -> Tensor | None:
    thrown = Stage()._throw(time)
    return torch.tensor(thrown[0].centre, dtype=torch.float32) if thrown else None


def test_the_same_seed_finds_the_same(scene, found):
    again = moving_points(scene, CONFIG, progress=False)
    assert torch.equal(again.points, found.points) and torch.equal(again.velocities, found.velocities)


def test_a_still_clip_has_nothing_to_find(folder, tmp_path):
    still = load_scene(folder, frames=1, cache_dir=tmp_path, progress=False)
    assert len(moving_points(still, CONFIG, progress=False)) == 0
    assert len(with_moving_points(still, CONFIG, progress=False)) == len(still.cloud)


def test_never_looks_at_held_out_cameras(scene, found):
    assert 0 not in scene.train
    blinded = replace(scene, frames=Blind(scene.frames.paths, scene.n_frames))
    assert torch.equal(moving_points(blinded, CONFIG, progress=False).points, found.points)


def test_cameras_are_training_cameras_and_three_or_more(scene):
    for cameras in ((), (0, 1, 2)):
        with pytest.raises(ConfigError, match="cameras"):
            moving_points(scene, CONFIG, cameras=cameras, progress=False)
    unseen = replace(scene, frames=None)  # nothing is read for what two cameras cannot tell
    assert len(moving_points(unseen, CONFIG, cameras=scene.train[:2], progress=False)) == 0
    assert len(moving_points(scene, CONFIG, cameras=scene.train[:3], progress=False)) > 0


def test_places_far_from_the_origin_make_no_difference(scene, found):
    away = torch.tensor([3000.0, -2000.0, 1000.0])
    moved = [replace(c, viewmat=shifted(c.viewmat, away)) for c in scene.cameras]
    cloud = replace(scene.cloud, points=scene.cloud.points + away)
    far = moving_points(replace(scene, cameras=tuple(moved), cloud=cloud), CONFIG, progress=False)
    assert abs(len(far) - len(found)) < 0.1 * len(found)
    speed, usual = (torch.linalg.vector_norm(c.velocities, dim=1).mean() for c in (far, found))
    assert abs(speed - usual) < 0.05 * usual


def shifted(viewmat: Tensor, by: Tensor) -> Tensor:
    moved = viewmat.double().clone()
    moved[:3, 3] -= moved[:3, :3] @ by.double()
    return moved.to(viewmat)


class Flashing(Blind):
    """The clip with the light on for one moment."""

    def image(self, camera: int, frame: int) -> Tensor:
        return super().image(camera, frame) * (1.0 if frame == 12 else 0.6)


def test_a_flash_takes_not_all_there_is_to_look_at(scene):
    flashing = replace(scene, frames=Flashing(scene.frames.paths, scene.n_frames))
    lit = moving_points(flashing, CONFIG, progress=False)
    share = (lit.times == scene.time(12)).float().mean()
    assert len(lit) > 200 and share < 0.6


def test_one_busy_moment_has_all_there_is_where_nothing_else_changes(scene):
    wanted = SweepConfig(candidates=2000, moments=24)
    changed = [torch.zeros(24, 20, 30, dtype=torch.bool) for _ in range(4)]
    for mask in changed:
        mask[5] = True
    pixels = _candidates(changed, wanted.candidates, 0)
    assert [len(p) for p in pixels] == [0] * 5 + [2000] + [0] * 18
    for mask in changed:
        mask[6:] = True
    pixels = _candidates(changed, wanted.candidates, 0)
    assert sum(map(len, pixels)) == 2000 and max(map(len, pixels)) <= 4 * 2000 / 24 + 1
    assert not any(map(len, _candidates([torch.zeros(3, 4, 5, dtype=torch.bool)], 10, 0)))


def test_adds_as_large_a_part_as_changes(scene):
    own = len(scene.cloud)
    few, more = (with_moving_points(scene, CONFIG, places=places, progress=False) for places in (1000, 3000))
    assert 0 < len(few) - own < 500  # most of the pictures stands still
    assert abs((len(more) - own) - 3 * (len(few) - own)) <= 2
    assert torch.equal(more.points[:own], scene.cloud.points)
    assert more.times[:own].isnan().all() and more.times[own:].isfinite().all()
    assert (more.spans[:own] == 1).all() and (more.spans[own:] < 1).all()
    assert len(with_moving_points(scene, CONFIG, places=0, progress=False)) == own


def test_adds_fewer_of_what_is_there_for_less_than_three_frames(folder, tmp_path):
    short = load_scene(folder, frames=6, cache_dir=tmp_path, progress=False)
    added = {}
    for moments in (24, 4):  # lives of half a frame, and of three
        cloud = with_moving_points(short, replace(CONFIG, moments=moments), places=2000, progress=False)
        added[moments] = len(cloud) - len(short.cloud)
    assert 0 < added[24] < added[4] / 2


def test_looks_at_more_pixels_where_more_points_are_wanted(scene, found):
    many = with_moving_points(scene, CONFIG, places=100_000, progress=False)
    assert len(many) - len(scene.cloud) > len(found)


@pytest.mark.parametrize(
    "wrong", [{"moments": 1}, {"candidates": 0}, {"neighbours": 1}, {"change": 0.0}, {"quorum": 1.5}]
)
def test_numbers_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SweepConfig(**wrong)
