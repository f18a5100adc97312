"""Stage 1: it learns, resumes bit for bit, and stops where numbers stop being numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from moegs.data import SurfaceConfig
from moegs.deform import get, names
from moegs.errors import ConfigError, DivergenceError, FormatError
from moegs.gaussians import PointCloud, densify
from moegs.gaussians.densify import DensifyRule
from moegs.train import FitConfig, evaluate, expert_renderer, fit, fit_expert, fit_or_load
from tests.train.interrupt import stop_after
from tests.train.scenes import moving, small_scene

RULE = DensifyRule(grad_threshold=1e-5, max_gaussians=80)
QUICK = FitConfig(steps=40, densify=RULE, densify_every=10, densify_from=0.2, checkpoint_every=7)


def prior(name: str = "polynomial"):
    return get(name).for_clip(4)


def test_training_improves_the_held_out_view():
    scene = small_scene()
    before = fit_expert(scene, prior(), replace(QUICK, steps=1), progress=False)
    after = fit_expert(scene, prior(), replace(QUICK, steps=150), progress=False)
    scores = [evaluate(expert_renderer(e), scene, timed=1).mean.psnr for e in (before, after)]
    assert scores[1] > scores[0] + 3
    assert 48 < len(after) <= 80


@pytest.mark.parametrize("name", ["polynomial", "interpolation"])
@pytest.mark.parametrize("cut", [3, 14, 33])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, monkeypatch, name: str, cut: int):
    scene = small_scene()
    whole = fit_expert(scene, prior(name), QUICK, progress=False)
    stop_after(monkeypatch, fit, cut)
    with pytest.raises(KeyboardInterrupt):
        fit_expert(scene, prior(name), QUICK, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = fit_expert(scene, prior(name), QUICK, out=tmp_path, resume=True, progress=False)
    assert whole.params.keys() == resumed.params.keys()
    assert all(torch.equal(whole.params[k], resumed.params[k]) for k in whole.params)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 40


def test_a_run_starts_from_points_on_what_stands_still():
    scene = small_scene()
    roomy = replace(QUICK, steps=1, densify=DensifyRule(max_gaussians=300), surface=SurfaceConfig(difference=0.1))
    more, filled = (fit_expert(scene, prior(), c, progress=False) for c in (roomy, replace(roomy, filled=0.24)))
    own = fit_expert(scene, prior(), replace(roomy, surface=None), progress=False)
    assert len(filled) - len(own) == 72 - len(scene.cloud)
    assert 72 - 48 < len(more) - len(own) <= 201 - 48
    full = fit_expert(scene, prior(), replace(roomy, filled=0.1), progress=False)  # the capture's points are more than that
    assert len(full) == len(own)


def test_a_dense_capture_is_thinned_to_what_there_may_be():
    scene = small_scene()
    for sweep in (None, FitConfig().sweep):
        config = replace(QUICK, densify=replace(RULE, max_gaussians=30), sweep=sweep)
        assert len(fit_expert(scene, prior(), replace(config, steps=1), progress=False)) == 30
        assert 15 < len(fit_expert(scene, prior(), config, progress=False)) <= 30
    looks = moving(0.0)[torch.arange(48) % 6]
    known = replace(scene, cloud=PointCloud(looks.means, scene.cloud.colors, looks=looks))
    config = replace(QUICK, steps=1, densify=replace(RULE, max_gaussians=30), sweep=None, surface=None)
    assert len(fit_expert(known, prior(), config, progress=False)) == 30


@pytest.mark.parametrize("name", names())
def test_a_capture_without_points_trains_and_resumes(tmp_path, monkeypatch, name: str):
    none = PointCloud(torch.zeros(0, 3), torch.zeros(0, 3))
    config = replace(QUICK, steps=12, surface=SurfaceConfig(difference=0.1), densify=replace(RULE, max_gaussians=300))
    scene = replace(small_scene(), cloud=none)
    whole = fit_expert(scene, prior(name), config, progress=False)
    stop_after(monkeypatch, fit, 9)
    with pytest.raises(KeyboardInterrupt):
        fit_expert(scene, prior(name), config, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = fit_expert(scene, prior(name), config, out=tmp_path, resume=True, progress=False)
    assert all(torch.equal(whole.params[k], resumed.params[k]) for k in whole.params)


def test_what_is_continued_grows_from_what_it_has(monkeypatch):
    """Not from the capture's points: a model with more would wait for the cap to rise past it."""
    scene, allowed = small_scene(), []
    start = prior().init(scene.cloud, torch.Generator().manual_seed(0))
    begun = {k: torch.cat([v, v]) if v.ndim and len(v) == len(scene.cloud) else v for k, v in start.items()}
    grow = densify.grow
    monkeypatch.setattr(densify, "grow", lambda *a, **k: (allowed.append(a[3].max_gaussians), grow(*a, **k))[1])
    config = replace(QUICK, densify=DensifyRule(grad_threshold=1e9, max_gaussians=200))
    fit_expert(scene, prior(), config, start=begun, progress=False)
    assert allowed and min(allowed) >= 2 * len(scene.cloud)


def test_a_resumed_run_grows_from_what_it_began_with(tmp_path, monkeypatch):
    rule = DensifyRule(grad_threshold=1e-9, max_gaussians=300)
    config = replace(QUICK, densify=rule, densify_until=0.9, surface=SurfaceConfig(difference=0.1), filled=0.6, idle=0.0)
    whole = fit_expert(small_scene(), prior(), config, progress=False)
    stop_after(monkeypatch, fit, 14)
    with pytest.raises(KeyboardInterrupt):
        fit_expert(small_scene(), prior(), config, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = fit_expert(small_scene(), prior(), config, out=tmp_path, resume=True, progress=False)
    assert all(torch.equal(whole.params[k], resumed.params[k]) for k in whole.params)


def test_a_fraction_of_more_than_all_is_refused():
    with pytest.raises(ConfigError, match=r"filled in \[0, 1\], got 1\.5"):
        FitConfig(filled=1.5)


def test_resuming_with_other_settings_is_refused(tmp_path):
    scene = small_scene()
    fit_expert(scene, prior(), replace(QUICK, steps=8), out=tmp_path, progress=False)
    with pytest.raises(ConfigError, match="same settings"):
        fit_expert(scene, prior(), replace(QUICK, steps=9), out=tmp_path, resume=True, progress=False)


def test_a_truncated_checkpoint_is_one_clear_error(tmp_path):
    scene = small_scene()
    fit_expert(scene, prior(), replace(QUICK, steps=8), out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(FormatError, match="delete it to start over"):
        fit_expert(scene, prior(), replace(QUICK, steps=8), out=tmp_path, resume=True, progress=False)


def test_divergence_names_tensor_and_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    from moegs.train.optimizer import ParamsAdam

    scene, original = small_scene(), ParamsAdam.step

    def poisoned(self, progress, step, scale):
        if step == 10:
            self.params["gaussian.scales"].grad[0, 0] = float("nan")
        original(self, progress, step, scale)

    monkeypatch.setattr(ParamsAdam, "step", poisoned)
    with pytest.raises(DivergenceError, match=r"gaussian\.scales.*step 10"):
        fit_expert(scene, prior(), QUICK, out=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = fit_expert(scene, prior(), QUICK, out=tmp_path, resume=True, progress=False)
    assert all(torch.isfinite(v).all() for v in resumed.params.values())


def test_the_callers_determinism_setting_is_put_back():
    assert not torch.are_deterministic_algorithms_enabled()
    fit_expert(small_scene(), prior(), replace(QUICK, steps=1), progress=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_seeds_differ_and_repeat():
    scene, short = small_scene(), replace(QUICK, steps=12)
    one, again = (fit_expert(scene, prior(), short, progress=False) for _ in range(2))
    other = fit_expert(scene, prior(), replace(short, seed=1), progress=False)
    assert all(torch.equal(one.params[k], again.params[k]) for k in one.params)
    assert not torch.equal(one.params["gaussian.sh_dc"][:10], other.params["gaussian.sh_dc"][:10])


def test_losing_every_gaussian_is_an_error():
    everything = DensifyRule(min_opacity=1.0)
    config = FitConfig(steps=10, densify_every=2, densify=everything)
    with pytest.raises(DivergenceError, match="every Gaussian .* by step 1"):
        fit_expert(small_scene(), get("polynomial").for_clip(4), config, progress=False)


def test_an_old_expert_does_not_stand_in_for_a_new_run(tmp_path):
    scene, prior = small_scene(), get("polynomial").for_clip(4)
    first = fit_or_load(scene, prior, FitConfig(steps=2), tmp_path, progress=False)
    again = fit_or_load(scene, prior, FitConfig(steps=2), tmp_path, progress=False)
    assert again.meta == first.meta
    (tmp_path / "checkpoint.safetensors").unlink()
    other = fit_or_load(scene, prior, FitConfig(steps=3), tmp_path, progress=False)
    assert other.meta["steps"] == 3 == fit_or_load(scene, prior, FitConfig(steps=3), tmp_path, progress=False).meta["steps"]


def absolute(image, view):
    return (image - view.image).abs().mean()


def test_an_expert_says_what_it_was_trained_for():
    short = replace(QUICK, steps=1)
    assert fit_expert(small_scene(), prior(), short, progress=False).meta["loss"] == "photometric"
    assert fit_expert(small_scene(), prior(), short, loss=absolute, progress=False).meta["loss"] == "absolute"


def test_psnr_is_measured_only_where_it_is_shown(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(fit, "psnr", lambda *images: measured.append(1) or 30.0)
    fit_expert(small_scene(), prior(), replace(QUICK, steps=60), out=tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(measured) == 2 and [li["step"] for li in lines] == [50, 60]
    assert all(li["psnr"] == 30.0 and li["loss"] > 0 and li["gaussians"] > 0 for li in lines)


def test_an_expert_knows_from_where_it_was_seen_to_seven_digits():
    scene = small_scene()
    rows = fit_expert(scene, prior(), FitConfig(steps=1), cameras=scene.train[1:], progress=False).meta["seen_from"]
    assert len(rows) == len(scene.train) - 1
    for row, camera in zip(rows, (scene.cameras[i] for i in scene.train[1:]), strict=True):
        wanted = [*camera.centre.tolist(), *camera.viewmat[2, :3].tolist(), float(camera.K[:2, :2].diagonal().mean())]
        torch.testing.assert_close(torch.tensor(row), torch.tensor(wanted), rtol=1e-6, atol=0)
