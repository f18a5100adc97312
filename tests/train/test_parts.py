"""Optimiser, view order, schedules, logs and checkpoints on their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from moegs.data import Scene
from moegs.deform import Schedule
from moegs.errors import ConfigError
from moegs.train import FitConfig, RouteConfig
from moegs.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from moegs.train.optimizer import ParamsAdam
from moegs.train.progress import MetricsLog
from moegs.train.views import ViewOrder, scene_description, training_order
from tests.train.scenes import MemoryFrames, small_scene


def test_adam_matches_the_formula_and_skips_unnamed_tensors():
    params = {"gaussian.x": torch.tensor([1.0, 2.0]), "buffer": torch.tensor([3.0])}
    adam = ParamsAdam(params, {"gaussian.x": Schedule(0.1)})
    adam.params["gaussian.x"].grad = torch.tensor([0.5, -0.25])
    adam.step(0.0, 0)
    torch.testing.assert_close(adam.params["gaussian.x"].detach(), torch.tensor([0.9, 2.1]))
    assert not adam.params["buffer"].requires_grad and params["gaussian.x"].tolist() == [1.0, 2.0]


def test_moments_follow_an_edit():
    adam = ParamsAdam({"gaussian.x": torch.arange(3.0)}, {"gaussian.x": Schedule(0.1)})
    adam.params["gaussian.x"].grad = torch.tensor([1.0, 2.0, 3.0])
    adam.step(0.0, 0)
    adam.replace({"gaussian.x": torch.zeros(3)}, {"": torch.tensor([2, -1, 0])})
    torch.testing.assert_close(adam.state()["gaussian.x"]["exp_avg"], torch.tensor([0.3, 0.0, 0.1]))
    assert adam.state()["gaussian.x"]["step"] == 1


def test_schedules_are_log_linear():
    schedule = Schedule(1e-2, 1e-4, start=0.1)
    assert schedule.at(0.05) == 0 and abs(schedule.at(0.5) - 1e-3) < 1e-9 and abs(schedule.at(2.0) - 1e-4) < 1e-9


def test_every_epoch_shows_every_view_once():
    order = ViewOrder((1, 4), (0, 1, 2), seed=5)
    epochs = [[order.at(e * 6 + i) for i in range(6)] for e in range(2)]
    everything = sorted((c, f) for c in (1, 4) for f in range(3))
    assert sorted(epochs[0]) == everything == sorted(epochs[1]) and epochs[0] != epochs[1]


def test_a_resumed_log_forgets_what_came_after(tmp_path):
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    for step in (10, 20, 30):
        log.write(step=step)
    log.close()
    path.write_text(path.read_text() + '{"step": 4')  # killed in the middle of a line
    log = MetricsLog(path, resume_at=20)
    log.write(step=25)
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 25]


def test_checkpoints_come_back_aligned(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Checkpoint(3, {"a/x": torch.arange(5.0), "a/y": torch.arange(3)}, {"k": (1, 2)}))
    again = load_checkpoint(path, {"k": (1, 2)})
    assert again.step == 3 and again.part("a")["x"].tolist() == [0, 1, 2, 3, 4]
    assert all(v.data_ptr() % 64 == 0 for v in again.tensors.values())


@pytest.mark.parametrize("config", [FitConfig, RouteConfig])
@pytest.mark.parametrize("field", ["steps", "checkpoint_every"])
def test_counts_of_steps_are_positive(config, field):
    with pytest.raises(ConfigError, match=f"{field}: expected at least 1, got 0"):
        config(**{field: 0})


def test_no_cameras_are_an_error():
    with pytest.raises(ConfigError, match="cameras: expected at least one"):
        training_order(small_scene(), cameras=())


def test_an_infinite_psnr_is_null_in_the_log_and_survives_a_resume(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    log.write(step=1, psnr=float("inf"), gaussians=5)
    log.close()
    MetricsLog(tmp_path / "m.jsonl", resume_at=1).close()
    assert (tmp_path / "m.jsonl").read_text() == '{"step": 1, "psnr": null, "gaussians": 5}\n'


def with_image(scene: Scene, camera: int) -> Scene:
    """The scene with another first picture of a camera."""
    images = {(c, f): scene.image(c, f) for c in range(len(scene.cameras)) for f in range(scene.n_frames)}
    return replace(scene, frames=MemoryFrames(images | {(camera, 0): 1 - scene.image(camera, 0)}))


def with_camera(scene: Scene, **change: Any) -> Scene:
    return replace(scene, cameras=(*scene.cameras[:-1], replace(scene.cameras[-1], **change)))


def test_a_clip_is_known_by_its_calibration_and_pictures():
    scene = small_scene()
    last = scene.cameras[-1]
    others = [
        with_image(scene, 2), with_camera(scene, K=last.K * torch.tensor([[2.0], [2.0], [1.0]])),
        with_camera(scene, viewmat=last.viewmat + 0.1 * torch.eye(4)[:, :1] @ torch.eye(4)[3:]), with_camera(scene, far=50.0),
        replace(scene, extent=2.0), replace(scene, cloud=scene.cloud[slice(1, None)]),
    ]  # fmt: skip
    described = [json.dumps(scene_description(s)) for s in (scene, replace(scene), *others)]
    assert described[0] == described[1] and len(set(described)) == len(others) + 1


@pytest.mark.parametrize("cameras", [(), (-1,), (1, 99)])
def test_cameras_that_a_scene_does_not_have_are_refused(cameras):
    with pytest.raises(ConfigError, match="cameras: expected"):
        training_order(small_scene(), 0, cameras)


def test_nobody_trains_on_what_is_held_out():
    scene = small_scene()
    assert training_order(scene, cameras=(2,)).cameras == (2,)
    with pytest.raises(ConfigError, match=r"cameras: expected some of \[1, 2\]; camera 0 is no training camera"):
        training_order(scene, cameras=(1, 0))
