from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from moegs.deform import Polynomial, polynomial
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.params import Params, count
from tests.deform._ply import columns, stacked
from tests.support import shared

LABELS = {"t0.000": 0.0, "t0.100": 0.1, "t0.333": 1 / 3, "t0.500": 0.5, "t0.770": 0.77, "t1.000": 1.0}


def random_params(n: int = 7, dtype: torch.dtype = torch.float64, seed: int = 0, **options: str) -> Params:
    generator = torch.Generator().manual_seed(seed)
    cloud = PointCloud(torch.randn(n, 3, generator=generator), torch.rand(n, 3, generator=generator))
    params = Polynomial(**options).init(cloud, generator)
    return {k: (v + 0.3 * torch.randn(v.shape, generator=generator)).to(dtype) for k, v in params.items()}


def read_checkpoint(case: str) -> Params:
    folder = shared(f"golden/SpacetimeGaussians/{case}/checkpoint/point_cloud/iteration_25000")
    cols = columns(Path(folder) / "point_cloud.ply")
    n = len(cols["x"])
    params = {
        "means": torch.stack([cols[c] for c in "xyz"], dim=1),
        "motion": stacked(cols, "motion_", 9),
        "quats": stacked(cols, "rot_", 4),
        "omega": stacked(cols, "omega_", 4),
        "scales": stacked(cols, "scale_", 3),
        "opacities": cols["opacity"],
        "centers": cols["trbf_center"],
        "log_widths": cols["trbf_scale"],
    }
    if "f_t_0" in cols:
        params |= {"features_dc": stacked(cols, "f_dc_", 6), "features_t": stacked(cols, "f_t_", 3)}
    else:
        params |= {"sh_dc": stacked(cols, "f_dc_", 3)[:, None], "sh_rest": torch.zeros(n, 0, 3)}
    return {f"gaussian.{k}": v for k, v in params.items()}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("case", ["full_n3v_n64", "full_technicolor_n64", "lite_n3v_n64"])
def test_reproduces_what_the_original_computes(case, label):
    params = read_checkpoint(case)
    expected = load_file(shared(f"golden/SpacetimeGaussians/{case}/expected.safetensors"))
    got = polynomial.deform(params, LABELS[label])
    values = {"means": got.means, "rotations": got.quats, "scales": got.scales, "opacities": got.opacities[:, None]}
    if got.features is not None:
        values["features"] = got.features
    for name, value in values.items():
        torch.testing.assert_close(value, expected[f"{label}/{name}"], atol=1e-5, rtol=1e-5)


def test_worked_example():
    params = {
        "gaussian.means": torch.tensor([[1.0, 0.0, 0.0]]),
        "gaussian.motion": torch.tensor([[1.0, 0, 0, 0, 2.0, 0, 0, 0, 4.0]]),
        "gaussian.quats": torch.tensor([[1.0, 0, 0, 0]]),
        "gaussian.omega": torch.tensor([[0.0, 0, 0, 2.0]]),
        "gaussian.scales": torch.zeros(1, 3),
        "gaussian.opacities": torch.zeros(1),
        "gaussian.centers": torch.tensor([0.25]),
        "gaussian.log_widths": torch.tensor([math.log(0.5)]),
        "gaussian.sh_dc": torch.zeros(1, 1, 3),
        "gaussian.sh_rest": torch.zeros(1, 0, 3),
    }
    got = polynomial.deform(params, 0.75)
    torch.testing.assert_close(got.means, torch.tensor([[1.5, 0.5, 0.5]]))
    torch.testing.assert_close(got.quats, torch.tensor([[math.sqrt(0.5), 0, 0, math.sqrt(0.5)]]))
    torch.testing.assert_close(got.opacities, torch.tensor([0.5 * math.exp(-1.0)]))


@settings(deadline=None, max_examples=25)
@given(st.floats(-1.0, 1.0), st.integers(0, 99))
def test_recentring_keeps_paths_and_rotations(shift, seed):
    params = random_params(seed=seed)
    moved = polynomial.recentred(params, params["gaussian.centers"] + shift)
    for t in (0.0, 0.4, 1.0):
        before, after = polynomial.deform(params, t), polynomial.deform(moved, t)
        torch.testing.assert_close(after.means, before.means)
        torch.testing.assert_close(after.quats, before.quats)


def test_respawning_recentred_keeps_the_path_and_uniform_does_not():
    params = random_params()
    before = polynomial.deform(params, 0.3).means
    sound = Polynomial().jittered(params, torch.Generator().manual_seed(1))
    original = Polynomial(respawn="uniform").jittered(params, torch.Generator().manual_seed(1))
    assert (sound["gaussian.centers"] != params["gaussian.centers"]).any()
    torch.testing.assert_close(polynomial.deform(sound, 0.3).means, before)
    assert (polynomial.deform(original, 0.3).means - before).abs().max() > 1e-3
    assert ((original["gaussian.centers"] >= 0) & (original["gaussian.centers"] < 1)).all()
    assert Polynomial(respawn="keep").jittered(params) is params


def test_detached_time_leaves_centres_to_opacity():
    params = random_params()
    center = params["gaussian.centers"].requires_grad_()
    polynomial.deform(params, 0.7, Polynomial(detach_time=True)).opacities.sum().backward()
    assert center.grad.abs().max() > 0
    assert not polynomial.deform(params, 0.7, Polynomial(detach_time=True)).means.requires_grad
    assert polynomial.deform(params, 0.7, Polynomial()).means.requires_grad


@pytest.mark.parametrize("width", [-1e4, -30.0, 30.0, 1e4])
def test_extreme_widths_and_empty_rotations_give_finite_gradients(width):
    params = random_params(dtype=torch.float32)
    params["gaussian.log_widths"] = torch.full_like(params["gaussian.log_widths"], width)
    params["gaussian.quats"] = torch.zeros_like(params["gaussian.quats"])
    params["gaussian.omega"] = torch.zeros_like(params["gaussian.omega"])
    for value in params.values():
        value.requires_grad_()
    got = polynomial.deform(params, 0.3)
    (got.means.sum() + got.quats.sum() + got.scales.sum() + got.opacities.sum() + got.sh.sum()).backward()
    assert all(torch.isfinite(v.grad).all() for v in params.values())
    assert torch.equal(got.quats.detach(), torch.tensor([1.0, 0, 0, 0]).expand(7, 4))
    wide = (params["gaussian.opacities"].sigmoid()) if width > 0 else torch.zeros(7)
    torch.testing.assert_close(got.opacities.detach(), wide.detach(), atol=1e-6, rtol=1e-5)


def test_starts_at_the_time_each_point_was_seen():
    times = torch.tensor([0.0, 0.2, 0.9])
    params = Polynomial().init(PointCloud(torch.randn(3, 3), torch.rand(3, 3), times))
    assert torch.equal(params["gaussian.centers"], times)
    assert torch.equal(polynomial.deform(params, 0.7).means, params["gaussian.means"])


@pytest.mark.parametrize("activation", ["sigmoid", "clamp"])
def test_features_start_as_the_colours_of_the_points(activation):
    cloud = PointCloud(torch.randn(5, 3), torch.rand(5, 3) * 0.9 + 0.05)
    prior = Polynomial(color="features", activation=activation)
    params = prior.init(cloud, torch.Generator().manual_seed(0))
    got = polynomial.deform(params, 0.2)
    albedo = got.features[:, :3]
    torch.testing.assert_close(albedo.sigmoid() if activation == "sigmoid" else albedo, cloud.colors)
    assert prior.decoder == activation and Polynomial().decoder is None
    assert params["decoder.w1"].shape == (6, 12) and params["decoder.w2"].shape == (3, 6)
    assert set(prior.param_groups(params, 1.0)) == set(params)
    assert count(params) == 5


def test_recipes_of_the_original():
    assert Polynomial.n3v("coffee_martini").lr_scales == 3e-3 and Polynomial.n3v().lr_scales == 1.5e-3
    assert Polynomial.technicolor().lr_scales == 5e-3 and Polynomial.n3v().lr_sh == 2.5e-3
    assert Polynomial.n3v().initial_log_width == 0 and Polynomial.technicolor().initial_log_width == -2
    assert Polynomial.n3v().decoder == "sigmoid" and Polynomial.technicolor().decoder == "clamp"


def test_regulariser_weighs_motion():
    params = random_params()
    expected = 0.1 * params["gaussian.motion"].abs().mean()
    torch.testing.assert_close(Polynomial(motion_reg=0.1).regularise(params, 0.3), expected)
    assert Polynomial().regularise(params, 0.3) == 0


def test_wrong_options_and_missing_tensors_are_named():
    with pytest.raises(ConfigError, match=r"'color'.*got 'rgb'"):
        Polynomial(color="rgb")
    with pytest.raises(ConfigError, match="'respawn'"):
        Polynomial(respawn="sometimes")
    with pytest.raises(ConfigError, match="'initial_log_width'"):
        Polynomial(initial_log_width=float("nan"))
    params = random_params()
    del params["gaussian.motion"]
    with pytest.raises(ShapeError, match=r"gaussian\.motion"):
        polynomial.deform(params, 0.5)
