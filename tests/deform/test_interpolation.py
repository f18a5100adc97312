from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from moegs.deform import Interpolation, interpolation
from moegs.deform.extraction import expand, extract
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.params import Params, populations
from tests.deform._ply import columns, harmonics_rest, stacked
from tests.support import shared

CASE = "golden/Ex4DGS/n3v_default_n64"
FRAMES = {"t0.000": 0, "t0.100": 30, "t0.333": 100, "t0.500": 150, "t0.770": 231, "t1.000": 300}
FRAMES |= {"frame_last": 299, "frame_frac": 47.25, "frame_key": 28}
FAITHFUL = Interpolation(
    n_frames=300, interval=10, pad=2, opacity_window="signed_min", shortest_arc=False, normalise_static=True
)


def some_cloud(n: int = 8, seed: int = 0, times: bool = False) -> PointCloud:
    generator = torch.Generator().manual_seed(seed)
    points, colors = torch.randn(n, 3, generator=generator), torch.rand(n, 3, generator=generator)
    return PointCloud(points, colors, torch.rand(n, generator=generator) if times else None)


def random_params(prior: Interpolation, n: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    params = prior.init(some_cloud(n, seed), generator)
    return {k: (v + 0.3 * torch.randn(v.shape, generator=generator)).to(dtype) for k, v in params.items()}


def read_checkpoint() -> Params:
    folder = Path(shared(f"{CASE}/checkpoint/point_cloud/iteration_40000"))
    still, moving = columns(folder / "point_cloud.ply"), columns(folder / "dynamic_point_cloud.ply")
    k = sum(name.startswith("motion_xyz_") for name in moving) // 3
    linear = {
        "means": torch.stack([still[c] for c in "xyz"], dim=1),
        "displacements": stacked(still, "xyz_disp_", 3),
        "quats": stacked(still, "rot_", 4),
        "scales": stacked(still, "scale_", 3),
        "opacities": still["opacity"],
        "sh_dc": stacked(still, "f_dc_", 3)[:, None],
        "sh_rest": harmonics_rest(still, "f_rest_"),
    }
    spline = {
        "keyframes": torch.stack([stacked(moving, f"motion_xyz_{j}_", 3) for j in range(k)], dim=1),
        "rotations": torch.stack([stacked(moving, f"motion_rot_{j}_", 4) for j in range(k)], dim=1),
        "scales": stacked(moving, "motion_scale_", 3),
        "opacities": moving["motion_opacity"],
        "centers": stacked(moving, "motion_opacity_c_", 2),
        "widths": stacked(moving, "motion_opacity_v_", 2),
        "sh_dc": stacked(moving, "motion_f_dc_", 3)[:, None],
        "sh_rest": harmonics_rest(moving, "motion_f_rest_"),
    }
    named = {f"gaussian.linear.{name}": v for name, v in linear.items()}
    return named | {f"gaussian.spline.{name}": v for name, v in spline.items()}


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("label", FRAMES)
def test_reproduces_what_the_original_computes(label, as_tensor):
    expected = load_file(shared(f"{CASE}/expected.safetensors"))
    t = FRAMES[label] / 300
    got = interpolation.deform(read_checkpoint(), torch.tensor(t, dtype=torch.float64) if as_tensor else t, FAITHFUL)
    values = {"means": got.means, "rotations": got.quats, "scales": got.scales, "opacities": got.opacities[:, None]}
    for name, value in values.items():
        torch.testing.assert_close(value, expected[f"{label}/{name}"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.sh, expected["static_in_time/sh"])


@pytest.mark.parametrize("label", FRAMES)
def test_reproduces_the_drift_of_a_resumable_checkpoint(label):
    expected = load_file(shared(f"{CASE}/expected.safetensors"))
    prior = Interpolation.n3v()
    got = interpolation.deform(read_checkpoint(), FRAMES[label] / 300, prior)
    torch.testing.assert_close(got.means, expected[f"chkpnt/{label}/means"], atol=1e-5, rtol=1e-5)


def test_static_rotations_can_stay_unnormalised():
    expected = load_file(shared(f"{CASE}/expected.safetensors"))
    got = interpolation.deform(read_checkpoint(), 0.5, Interpolation.n3v())
    q, scales = expected["t0.500/rotations_passed"].double(), expected["t0.500/scales"].double()
    w, x, y, z = q.unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    m = torch.stack(rows, -1).unflatten(-1, (3, 3)) * scales[:, None, :]
    torch.testing.assert_close(got.covars.double(), m @ m.mT, atol=1e-6, rtol=1e-4)


def test_key_frame_counts_of_finished_checkpoints():
    assert Interpolation.n3v().n_keyframes == 36
    assert Interpolation.technicolor().n_keyframes == 12


def test_recipes_of_the_original():
    n3v, fabien = Interpolation.n3v(), Interpolation.technicolor("Fabien")
    assert (n3v.static_reg, n3v.motion_reg, fabien.motion_reg) == (1e-4, 1e-4, 2e-4)
    assert (n3v.lr_keyframes, n3v.lr_rotations, n3v.lr_scales, n3v.lr_sh_spline) == (1.6e-4, 1e-3, 5e-3, 2.5e-3)
    assert (n3v.shift, fabien.shift) == (12, 13)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 12), st.sampled_from(["cubic", "linear"]))
def test_key_frames_cover_the_clip(n_frames, interval, position):
    prior = Interpolation(n_frames=n_frames, interval=interval, position=position)
    cubic = position == "cubic"
    assert prior.tau(0.0) >= (1 if cubic else 0)
    assert prior.tau(1.0) <= prior.n_keyframes - (2 if cubic else 1) + 1e-9
    assert prior.tau(1.0) > prior.n_keyframes - (3 if cubic else 2)


def test_cubic_passes_through_key_frames_and_keeps_straight_lines():
    prior = Interpolation(n_frames=20, interval=5)
    params = random_params(prior)
    for j in range(1, 5):
        got = prior.deform(params, (j - 1) * 5 / 20).means
        torch.testing.assert_close(got, params["gaussian.spline.keyframes"][:, j])
    line = torch.arange(prior.n_keyframes, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    params["gaussian.spline.keyframes"] = line.expand(8, -1, 3)
    got = prior.deform(params, 0.37).means
    torch.testing.assert_close(got, prior.tau(0.37) * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).expand(8, 3))


@pytest.mark.parametrize("t", [0.0, 0.199, 0.2, 0.61, 1.0])
@pytest.mark.parametrize("position", ["cubic", "linear"])
def test_a_number_and_a_tensor_give_the_same(t, position):
    prior = Interpolation(n_frames=20, interval=3, position=position, dynamic=0.5)
    params = random_params(prior)
    a, b = prior.deform(params, t), prior.deform(params, torch.tensor(t, dtype=torch.float64))
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))


def slerp_by_hand(a: np.ndarray, b: np.ndarray, d: float) -> np.ndarray:
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b, -1, 1))
    blend = (np.sin((1 - d) * angle) * a + np.sin(d * angle) * b) / np.sin(angle)
    return blend / np.linalg.norm(blend)


def test_rotations_turn_the_short_way_unless_told_otherwise():
    prior = Interpolation(n_frames=20, interval=20, dynamic=1.0)
    params = random_params(prior, n=16)
    got = prior.deform(params, 0.3).quats.numpy()
    long = Interpolation(n_frames=20, interval=20, shortest_arc=False).deform(params, 0.3).quats.numpy()
    opposite = 0
    for i, (a, b) in enumerate(params["gaussian.spline.rotations"][:, 1:3].numpy() * 1.0):
        opposite += a @ b < 0
        np.testing.assert_allclose(long[i], slerp_by_hand(a, b, 0.3), atol=1e-6)
        np.testing.assert_allclose(got[i], slerp_by_hand(a, b if a @ b > 0 else -b, 0.3), atol=1e-6)
    flipped = params | {"gaussian.spline.rotations": -params["gaussian.spline.rotations"]}
    flipped["gaussian.spline.rotations"][:, 2] *= -1
    np.testing.assert_allclose(np.abs(prior.deform(flipped, 0.3).quats.numpy()), np.abs(got), atol=1e-9)


def test_opposite_key_frames_stay_finite():
    prior = Interpolation(n_frames=20, interval=20, shortest_arc=False)
    params = random_params(prior, dtype=torch.float32)
    turned = params["gaussian.spline.rotations"].clone()
    turned[:, 2] = -turned[:, 1]
    turned[0] = 0.0
    params["gaussian.spline.rotations"] = turned.requires_grad_()
    got = prior.deform(params, 0.5).quats
    got.square().sum().backward()
    torch.testing.assert_close(torch.linalg.vector_norm(got, dim=-1), torch.ones(8))
    assert torch.isfinite(turned.grad).all()


def window_at(prior: Interpolation, t: float, centers: list[float], widths: list[float]) -> float:
    params = random_params(prior, n=1)
    params["gaussian.spline.opacities"] = torch.full((1,), 50.0, dtype=torch.float64)
    params["gaussian.spline.centers"] = torch.tensor([centers], dtype=torch.float64)
    params["gaussian.spline.widths"] = torch.tensor([widths], dtype=torch.float64)
    return prior.deform(params, t).opacities.item()


@pytest.mark.parametrize("swap", [False, True])
def test_opacity_window_is_full_inside_and_falls_off_outside(swap):
    prior = Interpolation(n_frames=50, interval=5, var_pad=0.0)
    centers = [prior.tau(0.6), prior.tau(0.4)] if swap else [prior.tau(0.4), prior.tau(0.6)]
    widths = [math.log(2.0), math.log(3.0)]
    assert window_at(prior, 0.5, centers, widths) == pytest.approx(1.0)
    assert window_at(prior, 0.2, centers, widths) == pytest.approx(math.exp(-1.0))
    assert window_at(prior, 0.9, centers, widths) == pytest.approx(math.exp(-1.0))
    below, above = (window_at(prior, 0.4 + e, centers, widths) for e in (-1e-6, 1e-6))
    assert below == pytest.approx(above, abs=1e-4)


def test_faithful_window_jumps_at_its_earlier_centre():
    prior = Interpolation(n_frames=50, interval=5, var_pad=0.0, opacity_window="signed_min")
    centers, widths = [prior.tau(0.4), prior.tau(0.6)], [0.0, 0.0]
    assert window_at(prior, 0.4 - 1e-6, centers, widths) == pytest.approx(math.exp(-4.0), abs=1e-3)
    assert window_at(prior, 0.4 + 1e-6, centers, widths) == pytest.approx(1.0)
    assert window_at(prior, 0.7, centers, widths) == pytest.approx(math.exp(-1.0))


@pytest.mark.parametrize("shape", ["nearest", "signed_min"])
@pytest.mark.parametrize("width", [-1e4, -40.0, 40.0, 300.0, 1e4])
def test_extreme_widths_give_finite_gradients(width, shape):
    prior = Interpolation(n_frames=50, interval=5, var_pad=0.0, opacity_window=shape)
    params = random_params(prior, dtype=torch.float32)
    params["gaussian.spline.widths"] = torch.full_like(params["gaussian.spline.widths"], width)
    for value in params.values():
        value.requires_grad_()
    for t in (0.0, 0.5, 1.0):
        got = prior.deform(params, t)
        (got.means.sum() + got.quats.sum() + got.scales.sum() + got.opacities.sum()).backward()
    grads = [v.grad for v in params.values() if v.grad is not None]
    assert len(grads) > 5 and all(torch.isfinite(g).all() for g in grads)


def test_starts_still_and_nearly_full_over_the_clip():
    prior = Interpolation.for_clip(48)
    params = prior.init(some_cloud())
    start = params["gaussian.spline.opacities"].sigmoid()
    for t in (0.0, 0.3, 0.99):
        got = prior.deform(params, t)
        torch.testing.assert_close(got.means, params["gaussian.spline.keyframes"][:, 0])
        assert (got.opacities > 0.9 * start).all()


def test_dynamic_fraction_and_times():
    prior = Interpolation(n_frames=48, interval=5, dynamic=0.25)
    params = prior.init(some_cloud(16, times=True), torch.Generator().manual_seed(3))
    assert populations(params) == {"linear": 12, "spline": 4}
    assert populations(Interpolation(dynamic=0.0).init(some_cloud())) == {"linear": 8, "spline": 0}
    cloud = some_cloud(16, times=True)
    centers = Interpolation(n_frames=48, interval=5).init(cloud)["gaussian.spline.centers"]
    torch.testing.assert_close(centers.mean(-1), prior.tau(cloud.times))


@pytest.mark.parametrize("exact", [True, False])
def test_extraction_follows_the_path_it_came_from(exact):
    prior = Interpolation(n_frames=40, interval=5, dynamic=0.4, exact_extraction=exact)
    params = random_params(prior, n=10)
    chosen = torch.tensor([True, False, False, True, False, True])
    best = torch.tensor([0.2, 0.5, 0.9])
    got, lineage = extract(params, chosen, best, prior)
    assert populations(got) == {"linear": 3, "spline": 7}
    assert lineage["linear"].tolist() == [1, 2, 4]
    assert lineage["spline"].tolist() == [0, 1, 2, 3, -1, -1, -1]
    for t in (0.0, 0.45, 0.9):
        before, after = prior.deform(params, t), prior.deform(got, t)
        error = (after.means[7:] - before.means[:6][chosen]).norm(dim=-1)
        length = params["gaussian.linear.displacements"][chosen].norm(dim=-1)
        assert (error < (1e-9 if exact else 0.35 * length)).all()
        torch.testing.assert_close(after.means[:7], torch.cat([before.means[:6][~chosen], before.means[6:]]))
    for i, t in enumerate(best.tolist()):
        raw = params["gaussian.linear.opacities"][chosen][i].sigmoid()
        torch.testing.assert_close(prior.deform(got, t).opacities[7 + i], raw)


def test_extraction_places_key_frames_as_the_original_does():
    prior = Interpolation.n3v()
    params = prior.init(some_cloud(2))
    displacement = torch.tensor([[10.0, 0, 0], [0, 20.0, 0]])
    params["gaussian.linear.displacements"] = displacement
    params["gaussian.spline.keyframes"] = torch.zeros(0, 8, 3)
    params["gaussian.spline.rotations"] = torch.zeros(0, 8, 4)
    got, _ = extract(params, torch.tensor([True, False]), 0.02, prior, seen=10 / 300)
    # ten frames seen: the ends lie one whole displacement beyond either side, sampled at (2j + 1) / 8 - 1/2
    along = torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]) * 3 - 1
    expected = params["gaussian.linear.means"][0] + along[:, None] * displacement[0]
    torch.testing.assert_close(got["gaussian.spline.keyframes"][0], expected)
    torch.testing.assert_close(got["gaussian.spline.centers"], torch.tensor([[1.5, 2.0]]))
    torch.testing.assert_close(got["gaussian.spline.widths"], torch.tensor([[8.0, 6.0]]))


def test_expansion_continues_straight_on():
    prior = Interpolation(n_frames=20, interval=5)
    params = random_params(prior)
    k = prior.n_keyframes
    line = torch.arange(k, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    params["gaussian.spline.keyframes"] = line.expand(8, k, 3).clone()
    grown = expand(params, k + 3)
    assert grown["gaussian.spline.rotations"].shape == (8, k + 3, 4)
    expected = torch.arange(k + 3, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(grown["gaussian.spline.keyframes"][0], expected.double())
    assert expand(params, k - 1)["gaussian.spline.keyframes"].shape[1] == k


def test_respawning_moves_windows_within_the_clip():
    prior = Interpolation.for_clip(48)
    params = random_params(prior, n=200)
    fresh = prior.jittered(params, torch.Generator().manual_seed(0))
    centers = fresh["gaussian.spline.centers"]
    assert (centers != params["gaussian.spline.centers"]).any()
    assert centers.min() >= prior.tau(1 / 48) - 1e-9 and centers.max() <= prior.tau(47 / 48) + 1e-9
    assert torch.equal(fresh["gaussian.spline.widths"], params["gaussian.spline.widths"])
    reset = Interpolation(respawn="jitter_reset").jittered(params)
    assert (reset["gaussian.spline.widths"] == 2).all()
    assert Interpolation(respawn="keep").jittered(params) is params


def test_regularisers():
    prior = Interpolation(n_frames=20, interval=5, dynamic=0.5, static_reg=1.0, motion_reg=0.0)
    params = random_params(prior)
    lengths = params["gaussian.linear.displacements"].norm(dim=-1)
    torch.testing.assert_close(prior.regularise(params, 0.3), (lengths + 1e-3).log().mean())
    moving = Interpolation(n_frames=20, interval=5, static_reg=0.0, motion_reg=1.0)
    y = params["gaussian.spline.keyframes"]
    expected = (y[:, 0] - y[:, 2]).norm(dim=-1).mean()  # t = 0.3 is frame 6, nearest to key frame 2
    torch.testing.assert_close(moving.regularise(params, 0.3), expected)
    torch.testing.assert_close(moving.regularise(params, torch.tensor(0.3)), expected)
    late = Interpolation(motion_reg=1e-4, reg_from=0.5)
    assert late.at_step(10, 100).motion_reg == 0 and late.at_step(100, 100) == late


def test_still_gaussians_regularise_with_finite_gradients():
    prior = Interpolation(dynamic=0.5, motion_reg=1e-4)
    params = prior.init(some_cloud())
    for value in params.values():
        value.requires_grad_()
    prior.regularise(params, 0.4).backward()
    assert all(torch.isfinite(v.grad).all() for v in params.values() if v.grad is not None)


def test_clips_get_about_ten_intervals():
    assert [Interpolation.for_clip(n).interval for n in (1, 12, 24, 48, 300)] == [2, 2, 2, 5, 10]
    assert Interpolation.technicolor("Birthday").lr_opacities_spline == 1e-4
    assert Interpolation.technicolor("Theater").lr_opacities_spline == 0.05


def test_wrong_options_and_shapes_are_named():
    with pytest.raises(ConfigError, match="'position'"):
        Interpolation(position="quadratic")
    with pytest.raises(ConfigError, match=r"'interval'.*got 0"):
        Interpolation(interval=0)
    with pytest.raises(ConfigError, match="'dynamic'"):
        Interpolation(dynamic=1.5)
    with pytest.raises(ShapeError, match="chosen"):
        extract(random_params(Interpolation()), torch.zeros(3, dtype=torch.bool), 0.5, Interpolation())
    with pytest.raises(ShapeError, match="linear"):
        interpolation.deform({"gaussian.means": torch.zeros(1, 3)}, 0.5, Interpolation())
