"""moegs prune, distill, fuse and select on a capture made on the spot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from moegs.data import Scene, load_scene, synthesize
from moegs.deform import get
from moegs.distill import DistillConfig
from moegs.expert import Expert, load_expert, save_expert
from moegs.prune import curve as curves
from moegs.prune import kept_rows
from moegs.route import Mixture, VolumePixelRouter, load_mixture, save_mixture
from moegs.train import fit as fitting
from moegs.train import refine as refining
from moegs_cli.distill import distill
from moegs_cli.fuse import fuse
from moegs_cli.prune import prune
from moegs_cli.refine import refine
from moegs_cli.select import select
from tests.train.interrupt import stop_after


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A capture, two untrained experts and a mixture of them, side by side."""
    folder = tmp_path_factory.mktemp("tools")
    synthesize(folder / "clip", cameras=4, frames=2, size=(32, 24), progress=False)
    scene = load_scene(folder / "clip", cache_dir=folder / "frames", progress=False)
    experts = {"poly": blank(scene, "polynomial"), "keys": blank(scene, "interpolation")}
    for name, expert in experts.items():
        save_expert(expert, folder / f"{name}.safetensors")
    router = VolumePixelRouter([len(e) for e in experts.values()], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        router.base.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    save_mixture(Mixture(experts, router), folder / "mix")
    return folder


def blank(scene: Scene, name: str) -> Expert:
    prior = get(name).for_clip(scene.n_frames)
    return Expert(prior, prior.init(scene.cloud[slice(0, None, 4)], torch.Generator().manual_seed(0)))


def run(command, *args) -> str:
    result = CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_prune(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet")
    said = run(prune, place / "mix", *data, "--ratio", 0.5, "--views", 2, "--refit", 1, "--out", tmp_path / "half")
    before, after = load_mixture(place / "mix"), load_mixture(tmp_path / "half")
    assert sum(after.router.counts) == sum(before.router.counts) - sum(before.router.counts) // 2
    assert "before" in said and "after" in said and "of poly" in said and "blend score" in said
    assert all(e.meta["refine steps"] == 1 for e in after.experts.values())
    told = json.loads((tmp_path / "half" / "prune.json").read_text())
    assert told["report"]["fraction"] == pytest.approx(0.5, abs=0.01) and set(told["models"]) == {"before", "after"}


def test_pruning_goes_on_from_its_checkpoint(place, tmp_path, monkeypatch):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet", "--cameras", "cam01,cam02")
    how = ("--ratio", 0.5, "--views", 2, "--refit", 8, "--rounds", 2, "--out", tmp_path)
    run(prune, place / "mix", *data, *how)
    done = load_mixture(tmp_path).router.base
    assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "halfway").exists()
    again = CliRunner().invoke(prune, [str(a) for a in (place / "mix", *data, *how)])
    assert "--resume" in str(again.exception)
    (tmp_path / "manifest.json").unlink()  # as it would be had it been stopped before the end
    step, taken = refining._step, []
    monkeypatch.setattr(refining, "_step", lambda *args: (taken.append(1), step(*args))[1])
    run(prune, place / "mix", *data, *how, "--resume")
    assert torch.equal(load_mixture(tmp_path).router.base, done) and len(taken) == 2  # those halfway, whose files are gone
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    said = CliRunner().invoke(prune, [str(a) for a in (place / "mix", *data, *how[:-1], foreign)])
    assert "is not empty" in str(said.exception)
    (tmp_path / "run" / "halfway").mkdir(parents=True)
    (tmp_path / "run" / "halfway" / "checkpoint.safetensors").write_bytes(b"begun")
    said = CliRunner().invoke(prune, [str(a) for a in (place / "mix", *data, *how[:-1], tmp_path / "run")])
    assert "add --resume to go on" in str(said.exception)
    odd = CliRunner().invoke(prune, [str(a) for a in (place / "mix", *data, *how[:4], "--out", tmp_path / "x", "--resume")])
    assert odd.exit_code == 2 and "--resume" in odd.output


def test_prune_refits_the_router_alone_where_asked(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet")
    how = ("--ratio", 0.1, "--views", 1, "--refit", 1, "--router-only")
    run(prune, place / "mix", *data, *how, "--out", tmp_path / "some")
    before, after = load_mixture(place / "mix"), load_mixture(tmp_path / "some")
    assert all("refine steps" not in e.meta for e in after.experts.values())
    assert sum(after.router.counts) < sum(before.router.counts)


def test_prune_draws_a_curve(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet", "--every", 2)
    how = ("--threshold", 0, "--criterion", "gate", "--views", 1, "--curve", "--ratios", "0,0.5")
    run(prune, place / "mix", *data, *how, "--out", tmp_path)
    named = {p["criterion"] for p in json.loads((tmp_path / "curve.json").read_text())["points"]}
    assert {"blend", "gate", "opacity", "contribution", "random"} <= named and (tmp_path / "curve.png").exists()


def test_a_curve_goes_on_from_its_last_point(place, tmp_path, monkeypatch):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet", "--every", 2, "--out", tmp_path)
    how = ("--ratio", 0.2, "--views", 1, "--curve", "--ratios", "0,0.5")
    run(prune, place / "mix", *data, *how)
    whole = json.loads((tmp_path / "curve.json").read_text())
    cut = whole | {"points": whole["points"][:3]}
    (tmp_path / "curve.json").write_text(json.dumps(cut))
    scored, point = [], curves._point
    monkeypatch.setattr(curves, "_point", lambda *args: (scored.append(args[:2]), point(*args))[1])
    run(prune, place / "mix", *data, *how, "--resume")
    after = json.loads((tmp_path / "curve.json").read_text())["points"]
    assert after[:3] == cut["points"] and [p["psnr"] for p in after] == [p["psnr"] for p in whole["points"]]
    assert len(scored) == sum(p["ratio"] > 0 for p in whole["points"][3:])
    other = CliRunner().invoke(prune, [str(a) for a in (place / "mix", *data, *how, "--resume", "--seed", 5)])
    assert "was begun with another seed" in str(other.exception)
    (tmp_path / "curve.json").write_text("{")
    damaged = CliRunner().invoke(prune, [str(a) for a in (place / "mix", *data, *how, "--resume")])
    assert "curve.json: not a readable curve" in str(damaged.exception)


def test_a_threshold_is_a_number(place, tmp_path):
    how = ("--data", place / "clip", "--threshold", "nan", "--out", tmp_path)
    assert "expected a finite number" in CliRunner().invoke(prune, [str(a) for a in (place / "mix", *how)]).output


def test_distillation_is_by_default_what_the_library_does():
    defaults = {option.name: option.default for option in distill.params}
    own = DistillConfig()
    assert all(defaults[name] == getattr(own, name) for name in ("weight", "adopt", "between"))


def test_distill(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet")
    said = run(distill, place / "mix", *data, "--into", "poly", "--steps", 2, "--compare", "--out", tmp_path)
    assert all(word in said for word in ("before", "distilled", "retrained", "mixture"))
    assert load_expert(tmp_path / "expert.safetensors").meta["distilled from"] == ["poly", "keys"]
    assert (tmp_path / "retrained" / "expert.safetensors").exists() and list((tmp_path / "teacher").iterdir())
    assert set(json.loads((tmp_path / "distill.json").read_text())["models"]) >= {"distilled", "retrained"}


def test_distill_goes_on_with_another_expert_where_asked(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet")
    other = load_expert(place / "poly.safetensors")
    save_expert(Expert(other.prior, {k: v[:20] if v.ndim and len(v) == len(other) else v for k, v in other.params.items()}),
                tmp_path / "less.safetensors")  # fmt: skip
    how = ("--into", "poly", "--steps", 3, "--checkpoint-every", 1, "--out", tmp_path / "run")
    said = run(distill, place / "mix", *data, *how, "--student", tmp_path / "less.safetensors")
    assert "before" in said and len(load_expert(tmp_path / "run" / "expert.safetensors")) == 20 < len(other)


@pytest.mark.parametrize(
    "wrong", [("--into", "hexplane", "--adopt", 0.2), ("--into", "poly", "--from-scratch", "--student", "poly.safetensors")]
)
def test_distill_refuses_what_it_would_ignore(place, tmp_path, wrong):
    words = [place / w if str(w).endswith("safetensors") else w for w in wrong]
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet", "--out", tmp_path / "run")
    result = CliRunner().invoke(distill, [str(a) for a in (place / "mix", *data, *words)])
    assert result.exit_code == 2 and wrong[-2] in result.output and not (tmp_path / "run" / "teacher").exists()


def test_a_student_is_measured_before_its_file_is_replaced(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet")
    file = tmp_path / "expert.safetensors"
    shutil.copy(place / "poly.safetensors", file)
    run(distill, place / "mix", *data, "--into", "poly", "--steps", 3, "--student", file, "--out", tmp_path, "--force")
    models = json.loads((tmp_path / "distill.json").read_text())["models"]
    assert models["before"]["psnr"] != models["distilled"]["psnr"]


@pytest.mark.parametrize("command", [prune, refine, distill, fuse])
def test_without_held_out_cameras_nothing_is_begun(place, tmp_path, command):
    more = {"prune": ["--ratio", "0.5"], "distill": ["--into", "poly"]}.get(command.name, [])
    args = [place / "mix", "--data", place / "clip", "--test", "none", "--out", tmp_path / "x", *more]
    result = CliRunner().invoke(command, [str(a) for a in args])
    assert "--test none" in str(result.exception) and not (tmp_path / "x").exists()


def test_gates_of_one_expert_alone_are_refused(place, tmp_path):
    whole = load_mixture(place / "mix")
    alone = kept_rows(whole, {"poly": torch.ones(len(whole.experts["poly"]), dtype=torch.bool)})
    save_mixture(alone, tmp_path / "one")
    args = [tmp_path / "one", "--data", place / "clip", "--ratio", 0.5, "--criterion", "gate", "--out", tmp_path / "x"]
    assert "never moves" in str(CliRunner().invoke(prune, [str(a) for a in args]).exception)


def test_fuse(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames")
    file = tmp_path / "fused.safetensors"
    written = ("--out", file, "--pictures", tmp_path / "p", "--count", 2, "--json", tmp_path / "f.json")
    said = run(fuse, place / "mix", *data, "--views", 2, *written)
    assert "fused" in said and "depth of fused: abs-rel" in said and "depth of keys" in said
    models = json.loads((tmp_path / "f.json").read_text())["models"]
    assert list(models) == ["poly", "keys", "mixture", "fused"]
    assert models["mixture"]["gaussians"] == models["fused"]["gaussians"]
    assert "depth" not in models["mixture"] and 0 < models["fused"]["depth"]["covered"] <= 1
    assert load_expert(file).prior.name == "fused"
    assert (tmp_path / "p" / "depth-cam00.png").exists() and (tmp_path / "p" / "spiral.mp4").stat().st_size > 500


def test_a_fused_model_learns_on(place, tmp_path, monkeypatch):
    file = tmp_path / "fused.safetensors"
    how = ("--data", place / "clip", "--frame-cache", place / "frames", "--views", 2, "--quiet", "--out", file, "--refit", 6)
    said = run(fuse, place / "mix", *how)
    assert "fused, refitted" in said and not (tmp_path / "fused-refit").exists()
    done = load_expert(file)
    assert done.prior.name == "fused" and done.meta["fused"] == ["poly", "keys"] and done.meta["steps"] == 6
    with monkeypatch.context() as patch:
        stop_after(patch, fitting, 4)
        assert CliRunner().invoke(fuse, [str(a) for a in (place / "mix", *how, "--force")]).exit_code == 1
    assert (tmp_path / "fused-refit" / "checkpoint.safetensors").exists()
    assert load_expert(file).meta.get("steps") is None  # a whole model all the time, for now the one before
    run(fuse, place / "mix", *how, "--resume")
    again = load_expert(file)
    assert all(torch.equal(again.params[k], v) for k, v in done.params.items())
    assert not (tmp_path / "fused-refit").exists()
    odd = CliRunner().invoke(fuse, [str(a) for a in (place / "mix", *how[:-2], "--resume")])
    assert odd.exit_code == 2 and "goes on with a --refit" in odd.output


def test_a_fused_model_is_pruned(place, tmp_path, monkeypatch):
    file, said = tmp_path / "fused.safetensors", tmp_path / "f.json"
    how = ("--data", place / "clip", "--frame-cache", place / "frames", "--views", 2, "--quiet", "--out", file)
    refit = ("--refit", 6, "--ratio", 0.5, "--json", said)
    run(fuse, place / "mix", *how, *refit)
    done, rows = load_expert(file), json.loads(said.read_text())["models"]
    assert len(done) == pytest.approx(rows["mixture"]["gaussians"] / 2, abs=1) == rows["fused, pruned"]["gaussians"]
    assert done.meta["fused"] == ["poly", "keys"] and done.meta["pruned"]["fraction"] == pytest.approx(0.5, abs=0.01)
    assert rows["fused"]["megabytes"] > 1.5 * rows["fused, pruned"]["megabytes"] and not (tmp_path / "fused-refit").exists()
    with monkeypatch.context() as patch:
        stop_after(patch, fitting, 11)  # in the last stretch
        assert CliRunner().invoke(fuse, [str(a) for a in (place / "mix", *how, *refit, "--force")]).exit_code == 1
    assert len(load_expert(file)) == rows["mixture"]["gaussians"]
    step, taken = fitting._step, []
    monkeypatch.setattr(fitting, "_step", lambda *args: (taken.append(1), step(*args))[1])
    run(fuse, place / "mix", *how, *refit, "--resume", "--force")
    again = load_expert(file)
    assert len(taken) < 6 and all(torch.equal(again.params[k], v) for k, v in done.params.items())
    odd = CliRunner().invoke(fuse, [str(a) for a in (place / "mix", *how, "--ratio", 0.5, "--force")])
    assert odd.exit_code == 2 and "add --refit" in odd.output


def test_scores_stay_where_depth_is_lacking(place, tmp_path):
    shutil.copytree(place / "clip", tmp_path / "clip")
    held_out = tmp_path / "clip" / "depth" / "cam00.npy"
    data, scores = ("--data", tmp_path / "clip", "--frame-cache", place / "frames"), tmp_path / "f.json"
    how = ("--views", 1, "--out", tmp_path / "fused.safetensors", "--json", scores, "--force")
    depth = np.load(held_out)
    depth[0] = np.inf  # nothing known in one of the two frames
    np.save(held_out, depth)
    assert "depth of fused: abs-rel" in run(fuse, place / "mix", *data, *how)
    np.save(held_out, np.full_like(depth, np.inf))
    assert "depth is not scored" in run(fuse, place / "mix", *data, *how)
    held_out.unlink()
    said = run(fuse, place / "mix", *data, *how)
    assert "depth is not scored" in said and "cam00.npy" in said and "mixture" in said
    models = json.loads(scores.read_text())["models"]
    assert "psnr" in models["fused"] and "depth" not in models["fused"]


def test_nothing_opaque_has_a_depth_without_numbers(place, tmp_path):
    shutil.copytree(place / "mix", tmp_path / "mix")
    faint = load_mixture(tmp_path / "mix")
    for expert in faint.experts.values():
        for name, value in expert.params.items():
            if name.endswith("opacities"):
                value.fill_(-4.0)
    save_mixture(faint, tmp_path / "mix")
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--views", 1)
    said = run(fuse, tmp_path / "mix", *data, "--out", tmp_path / "f.safetensors", "--json", tmp_path / "f.json")
    assert "depth of fused: nothing is opaque, covered 0.0%" in said
    assert json.loads((tmp_path / "f.json").read_text())["models"]["fused"]["depth"]["abs_rel"] is None


def test_a_fused_model_is_no_file_of_a_mixture(place, tmp_path):
    shutil.copytree(place / "mix", tmp_path / "mix")
    args = [place / "mix", "--data", place / "clip", "--out", tmp_path / "mix" / "expert.safetensors"]
    result = CliRunner().invoke(fuse, [str(a) for a in args])
    assert "mix holds a mixture" in str(result.exception)
    assert not (tmp_path / "mix" / "expert.safetensors").exists()


def test_select(place, tmp_path):
    both = ("--experts", place / "poly.safetensors", place / "keys.safetensors")
    data = ("--frame-cache", place / "frames", "--quiet")
    said = run(select, place / "clip", *both, *data, "--steps", 1, "--validation", 1, "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    ranking, poly = found["ranking"], str(place / "poly.safetensors")
    assert len(ranking) == 3 and "dB a ms" in said
    assert f"polynomial: {poly}" in said and found["experts"]["polynomial"] == poly
    gains = [c["gain"] for c in ranking]
    assert max(gains[1:]) <= 0 or gains == sorted(gains, reverse=True)


def test_a_mixture_in_the_place_of_an_expert_is_called_so(place, tmp_path):
    result = CliRunner().invoke(select, [str(place / "clip"), "--experts", str(place / "mix"), "--experts", "x"])
    assert "mix: is a mixture, expected an expert" in str(result.exception)


def test_select_wants_several(place):
    args = ["x", "--experts", str(place / "poly.safetensors"), "--sizes", "one"]
    result = CliRunner().invoke(select, args)
    assert result.exit_code != 0 and "--sizes" in str(result.exception)


def test_refine(place, tmp_path):
    data = ("--data", place / "clip", "--frame-cache", place / "frames", "--quiet")
    said = run(refine, place / "mix", *data, "--steps", 2, "--out", tmp_path)
    assert "before" in said and "refined" in said
    mixture = load_mixture(tmp_path)
    assert list(mixture.experts) == ["poly", "keys"]
    assert all(e.meta["refine steps"] == 2 for e in mixture.experts.values())
    assert set(json.loads((tmp_path / "refine.json").read_text())["models"]) == {"before", "refined"}
