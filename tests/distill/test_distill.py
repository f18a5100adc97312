"""Distillation: the loss as written, the cache, and who learns from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.deform import get
from moegs.distill import (
    DistillConfig,
    cache_teacher,
    distill,
    distillation_loss,
    retrain,
    student_of,
    teacher_bytes,
    with_novel_views,
)
from moegs.distill.distill import Lesson
from moegs.errors import ConfigError, DataError, ShapeError
from moegs.expert import Expert
from moegs.route import Mixture, VolumePixelRouter, mixture_key, render_mixture
from moegs.train import FitConfig, photometric_loss
from tests.train.scenes import small_scene


def blobs(seed: int, name: str = "polynomial") -> Expert:
    prior = get(name).for_clip(4)
    return Expert(prior, prior.init(small_scene().cloud, torch.Generator().manual_seed(seed)))


def make_mixture() -> Mixture:
    experts = {"poly": blobs(0), "keys": blobs(1, "interpolation")}
    router = VolumePixelRouter([len(e) for e in experts.values()], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        router.base.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    return Mixture(experts, router)


def pictures():
    g = torch.Generator().manual_seed(0)
    return [torch.rand(14, 16, 3, generator=g, dtype=torch.float64) for _ in range(3)] + [
        torch.rand(14, 16, generator=g, dtype=torch.float64)
    ]


def test_a_damaged_cache_is_made_again(tmp_path):
    mixture, scene = make_mixture(), small_scene()
    before = cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False).frame(scene.train[0], 1)
    for file in tmp_path.glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-40])
    again = cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False)
    assert torch.equal(again.frame(scene.train[0], 1), before) and again.gate(scene.train[-1], scene.n_frames - 1).max() > 0


def test_gates_of_nobody_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected one of poly, keys, got 'grid'"):
        cache_teacher(make_mixture(), small_scene(), tmp_path, expert="grid", progress=False)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_loss_is_the_formula(weight):
    image, truth, teacher, gate = pictures()
    own = gate[..., None].expand_as(image)
    expected = weight * photometric_loss(own * image, own * truth, 0.2)
    expected += (1 - weight) * photometric_loss((1 - own) * image, (1 - own) * teacher, 0.2)
    torch.testing.assert_close(distillation_loss(image, truth, teacher, gate, weight), expected)


def test_gradient_reaches_the_student_alone():
    image, truth, teacher, gate = (x.requires_grad_() for x in pictures())
    truth = truth.detach()
    distillation_loss(image, truth, teacher, gate).backward()
    assert image.grad.abs().max() > 0 and teacher.grad is None and gate.grad is None


def test_where_the_gate_is_open_only_the_photograph_counts():
    image, truth, teacher, gate = pictures()
    image.requires_grad_()
    gate = (torch.arange(16) < 8).double().expand(14, 16)
    for weight, silent in ((1.0, slice(8, None)), (0.0, slice(0, 8))):
        (grad,) = torch.autograd.grad(distillation_loss(image, truth, teacher, gate, weight, lambda_dssim=0.0), image)
        assert grad[:, silent].abs().max() == 0 and grad.abs().max() > 0


def test_loss_refuses():
    image, truth, teacher, gate = pictures()
    with pytest.raises(ConfigError, match="weight"):
        distillation_loss(image, truth, teacher, gate, 1.5)
    with pytest.raises(ShapeError, match="gate"):
        distillation_loss(image, truth, teacher, gate[1:])
    with pytest.raises(ShapeError, match="photograph"):
        distillation_loss(image, truth[:1], teacher, gate)
    with pytest.raises(ShapeError, match="teacher"):
        distillation_loss(image, truth, teacher[..., :1], gate)


def test_cache_holds_what_the_mixture_renders(tmp_path):
    mixture, scene = make_mixture(), small_scene()
    teacher = cache_teacher(mixture, scene, tmp_path, expert="keys", progress=False)
    with torch.no_grad():
        render = render_mixture(mixture, scene.cameras[2], scene.time(3))
    assert (teacher.frame(2, 3) - render.color.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    assert (teacher.gate(2, 3) - render.gates[1]).abs().max() <= 0.5 / 65535 + 1e-6
    used = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert teacher_bytes(scene, scene.train) <= used <= teacher_bytes(scene, scene.train) + 4 * 256
    assert 5 * teacher_bytes(scene, scene.train, gates=False) == 3 * teacher_bytes(scene, scene.train)
    with pytest.raises(DataError, match="camera 0"):
        teacher.frame(0, 0)


def test_cache_is_rendered_once_and_per_mixture(tmp_path, monkeypatch):
    mixture, scene = make_mixture(), small_scene()
    cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False)
    names = {p.name for p in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("moegs.distill.teacher.render_mixture", None)  # calling it would fail
        cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False)
    with torch.no_grad():
        mixture.router.base += 0.1
    cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False)
    assert len({p.name for p in tmp_path.iterdir()}) == 2 * len(names)


def test_an_interrupted_cache_leaves_no_half_files(tmp_path, monkeypatch):
    mixture, scene, calls = make_mixture(), small_scene(), []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:  # in the second camera
            raise KeyboardInterrupt
        return render_mixture(*args, **kwargs)

    monkeypatch.setattr("moegs.distill.teacher.render_mixture", failing)
    with pytest.raises(KeyboardInterrupt):
        cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False)
    assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == ["frames", "gate"]
    calls.clear()
    monkeypatch.setattr("moegs.distill.teacher.render_mixture", render_mixture)
    teacher = cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False)
    assert teacher.gate(2, 3).shape == (20, 24)


def test_key_follows_everything_that_is_rendered():
    mixture = make_mixture()
    experts = mixture.experts
    changed = [
        Mixture({n: replace(e, background=(0.1, 0.0, 0.0)) for n, e in experts.items()}, mixture.router),
        Mixture({n: replace(e, params=e.params | {"x": torch.ones(1)}) for n, e in experts.items()}, mixture.router),
        Mixture({f"{n}2": e for n, e in experts.items()}, mixture.router),
    ]
    keys = {mixture_key(m) for m in (mixture, *changed)}
    assert len(keys) == 4 and mixture_key(make_mixture()) == mixture_key(mixture)


def test_who_the_student_is():
    mixture, fit = make_mixture(), FitConfig(steps=5)
    continued = student_of(mixture, "polynomial", fit, n_frames=4)
    assert continued.expert == "poly" and continued.start is mixture.experts["poly"].params
    assert continued.fit.densify_every > 5
    scratch = student_of(mixture, "keys", fit, n_frames=4, from_scratch=True)
    assert scratch.expert == "keys" and scratch.start is None and scratch.fit.densify_every == fit.densify_every
    other = student_of(mixture, "hexplane", fit, n_frames=4)
    assert other.expert is None and other.prior.name == "hexplane"
    twins = Mixture({"a": mixture.experts["poly"], "b": blobs(2)}, VolumePixelRouter([48, 48]))
    with pytest.raises(ConfigError, match="a, b"):
        student_of(twins, "polynomial", fit, n_frames=4)
    with pytest.raises(ConfigError, match="'nobody'"):
        student_of(mixture, "nobody", fit, n_frames=4)


def test_a_student_learns_and_keeps_its_size(tmp_path):
    mixture, scene = make_mixture(), small_scene()
    config = DistillConfig(fit=FitConfig(steps=12, seed=1))
    before = {k: v.clone() for k, v in mixture.experts["poly"].params.items()}
    options = {"progress": False}
    taught = distill(mixture, scene, "poly", config, cache=tmp_path / "cache", out=tmp_path / "run", **options)
    again = distill(mixture, scene, "poly", config, cache=tmp_path / "cache", **options)
    alone = retrain(mixture, scene, "poly", config, **options)
    assert len(taught) == len(alone) == len(mixture.experts["poly"])
    assert all(torch.equal(taught.params[k], again.params[k]) for k in before)
    assert not torch.equal(taught.params["gaussian.means"], alone.params["gaussian.means"])
    assert all(torch.equal(mixture.experts["poly"].params[k], v) for k, v in before.items())
    assert taught.meta["distilled from"] == ["poly", "keys"]
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_new_cameras_show_what_the_mixture_renders(tmp_path):
    mixture, scene = make_mixture(), small_scene()
    wider = with_novel_views(scene, mixture, 3, tmp_path, seed=4, progress=False)
    assert len(wider.cameras) == len(scene.cameras) + 3 and wider.train == (*scene.train, 3, 4, 5)
    assert torch.equal(wider.image(1, 2), scene.image(1, 2))
    for camera in (3, 4, 5):
        rendered = render_mixture(mixture, wider.cameras[camera], wider.time(2)).color.clamp(0, 1)
        assert (wider.image(camera, 2) - rendered).abs().max() <= 0.5 / 255 + 1e-6


def test_a_lone_camera_has_nothing_between(tmp_path):
    scene = replace(small_scene(), train=(1,))
    assert with_novel_views(scene, make_mixture(), 3, tmp_path) is scene
    assert with_novel_views(small_scene(), make_mixture(), 0, tmp_path).train == (1, 2)


def test_between_photographs_the_mixture_alone_teaches(tmp_path):
    mixture, scene = make_mixture(), small_scene()
    wider = with_novel_views(scene, mixture, 1, tmp_path, progress=False)
    config = DistillConfig()
    lesson = Lesson(
        cache_teacher(mixture, scene, tmp_path, expert="poly", progress=False), config, "m", len(scene.cameras)
    )
    image = torch.full((scene.cameras[0].height, scene.cameras[0].width, 3), 0.5)
    novel, known = wider.view(3, 0), wider.view(1, 0)
    torch.testing.assert_close(lesson(image, novel), photometric_loss(image, novel.image, config.fit.lambda_dssim))
    assert not torch.equal(lesson(image, known), photometric_loss(image, known.image, config.fit.lambda_dssim))


def test_as_many_cameras_are_added_as_are_asked_for(tmp_path):
    fit = FitConfig(steps=2)
    for between, files in ((0.0, 2), (1.5, 5)):
        cache = tmp_path / str(between)
        distill(
            make_mixture(), small_scene(), "poly", DistillConfig(between=between, fit=fit), cache=cache, progress=False
        )
        assert len(list(cache.glob("frames-*.npy"))) == files
    for between in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="between"):
            DistillConfig(between=between)
    with pytest.raises(ConfigError, match="weight"):
        DistillConfig(weight=3.0)


def test_a_prior_outside_the_mixture_is_taught_too(tmp_path):
    config = DistillConfig(fit=FitConfig(steps=3))
    taught = distill(make_mixture(), small_scene(), "reformulation", config, cache=tmp_path, progress=False)
    assert taught.prior.name == "reformulation"


def test_a_lesson_goes_on_only_as_it_began(tmp_path):
    mixture, scene, fit = make_mixture(), small_scene(), FitConfig(steps=2)
    taught = distill(mixture, scene, "poly", DistillConfig(fit=fit), cache=tmp_path, out=tmp_path, progress=False)
    assert taught.meta["loss"] == {
        "name": "distillation", "mixture": mixture_key(mixture), "weight": 0.5, "adopt": 0.5, "between": 0.0,
    }  # fmt: skip
    how = {"cache": tmp_path, "out": tmp_path, "resume": True, "progress": False}
    distill(mixture, scene, "poly", DistillConfig(fit=fit), **how)
    with pytest.raises(ConfigError, match=r"loss\.weight = 0\.5, this run asks for 0\.3"):
        distill(mixture, scene, "poly", DistillConfig(weight=0.3, fit=fit), **how)
    with pytest.raises(ConfigError, match="only that one has settings of 'keep'"):
        retrain(mixture, scene, "poly", DistillConfig(fit=fit), out=tmp_path, resume=True, progress=False)


def test_an_expert_to_go_on_with_needs_its_prior_and_a_place():
    mixture, fit = make_mixture(), DistillConfig().fit
    with pytest.raises(ConfigError, match="has no 'hexplane' whose place"):
        student_of(mixture, "hexplane", fit, n_frames=4, expert=blobs(2, "hexplane"))
    with pytest.raises(ConfigError, match="expected prior 'interpolation'"):
        student_of(mixture, "keys", fit, n_frames=4, expert=blobs(2))
    assert student_of(mixture, "keys", fit, n_frames=4, expert=blobs(2, "interpolation")).expert == "keys"
