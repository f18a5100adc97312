from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moegs.deform import from_config, hexplane, to_config
from moegs.deform.hexplane import HexPlane
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.params import Params, take
from tests.deform import _golden as golden

CASES = ["4DGaussians/n3v_default_n64", "4DGaussians/n3v_deep_n64"]
HEADS = {"pos": "means", "scales": "scales", "rotations": "quats", "opacity": "opacities", "shs": "sh"}
SMALL = HexPlane(sh_degree=1, channels=3, resolution=(4, 5, 3, 6), width=5, color_coefficients=4)


def renamed(state: dict[str, Tensor]) -> Params:
    """4DGaussians' deformation.pth under our names."""
    params = {}
    for key, value in state.items():
        kind, *rest = key.removeprefix("deformation_net.").split(".")
        if kind == "grid":
            params["plane.aabb" if rest[0] == "aabb" else f"plane.{rest[1]}.{rest[2]}"] = value
        elif kind == "feature_out":
            params[f"mlp.trunk.{int(rest[0]) // 2}.{rest[1]}"] = value
        elif kind.endswith("_deform"):
            params[f"mlp.{HEADS[kind.removesuffix('_deform')]}.{int(rest[0]) // 2}.{rest[1]}"] = value
    return params


def loaded(case: str) -> tuple[Params, dict[str, Tensor]]:
    values = golden.expected(case)
    return golden.canonical(values) | renamed(golden.weights(case, 14000)), values


def alive(seed: int = 0, n: int = 6, config: HexPlane = SMALL) -> Params:
    """Float64 params in which every part of the network does something."""
    params = config.init(golden.cloud(n), torch.Generator().manual_seed(seed))
    return golden.randomised(params, list(config.param_groups(params, 1.0)))


@pytest.mark.parametrize("label", golden.TIMES)
@pytest.mark.parametrize("case", CASES)
def test_states_match_those_of_the_original(case: str, label: str) -> None:
    params, values = loaded(case)
    golden.check(HexPlane.n3v().deform(params, golden.TIMES[label]), values, label, atol=1e-4)


@pytest.mark.parametrize("label", golden.TIMES)
@pytest.mark.parametrize("case", CASES)
def test_plane_features_match_those_of_the_original(case: str, label: str) -> None:
    params, values = loaded(case)
    features = hexplane.plane_features(params, golden.TIMES[label], HexPlane.n3v())
    torch.testing.assert_close(features, values[f"{label}/grid_features"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_coarse_stage_matches_the_original(case: str) -> None:
    params, values = loaded(case)
    golden.check(HexPlane.n3v().at_step(0, 17000).deform(params, 0.3), values, "coarse", atol=1e-5)


@pytest.mark.parametrize("dropped", hexplane.networks.HEADS)
def test_a_head_left_out_leaves_its_field_at_rest(dropped: str) -> None:
    params, values = loaded(CASES[1])
    heads = tuple(h for h in hexplane.networks.HEADS if h != dropped)
    moved = hexplane.deform(params, 0.77, HexPlane(time_axis="upper", heads=heads))
    rest = HexPlane(deforming=False).deform(params, 0.77)
    for field, theirs in {"means": "means", "scales": "scales", "quats": "rotations", "sh": "sh"}.items():
        target = getattr(rest, field) if field == dropped else values[f"t0.770/{theirs}"]
        torch.testing.assert_close(getattr(moved, field), target, rtol=1e-5, atol=1e-4)


def test_a_fresh_model_is_at_rest() -> None:
    params = SMALL.init(golden.cloud(20), torch.Generator().manual_seed(0))
    moved, rest = SMALL.deform(params, 0.4), hexplane.deform(params, 0.4, SMALL.at_step(0, 10))
    for field in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(moved, field), getattr(rest, field))


def test_the_original_starts_with_random_motion() -> None:
    prior = HexPlane(zero_heads=False, resolution=(4, 4, 4, 4), width=8)
    params = prior.init(golden.cloud(20), torch.Generator().manual_seed(0))
    assert (prior.deform(params, 0.4).means - params["gaussian.means"]).abs().max() > 1e-3


def test_box_corners_and_clip_ends_read_the_corner_knots() -> None:
    params = alive()
    low, high = params["plane.aabb"]
    params["gaussian.means"] = torch.stack([low, high])
    first, last = hexplane.plane_features(params, 0.0, SMALL), hexplane.plane_features(params, 1.0, SMALL)
    corner = [[params[f"plane.{level}.{i}"][0, :, a, a] for i in range(6)] for level in range(2) for a in (0, -1)]
    expected = [torch.stack(planes).prod(0) for planes in corner]
    torch.testing.assert_close(first[0], torch.cat([expected[0], expected[2]]))
    torch.testing.assert_close(last[1], torch.cat([expected[1], expected[3]]))


def test_the_original_reads_the_middle_of_the_time_axis_at_the_start() -> None:
    params = alive()
    upper = hexplane.plane_features(params, 0.0, HexPlane(time_axis="upper"))
    torch.testing.assert_close(upper, hexplane.plane_features(params, 0.5, SMALL))


def test_rows_of_the_box_may_come_in_either_order() -> None:
    params = alive()
    mirrored = params | {"plane.aabb": params["plane.aabb"].flip(0)}
    for name, plane in params.items():
        if name.startswith("plane.") and name != "plane.aabb":
            pair = hexplane.PAIRS[int(name[-1])]
            mirrored[name] = plane.flip([2, 3] if 3 not in pair else [3])
    torch.testing.assert_close(SMALL.deform(mirrored, 0.3).means, SMALL.deform(params, 0.3).means)


def test_gradients_in_every_parameter_and_in_time() -> None:
    params = alive(n=3)
    names = list(SMALL.param_groups(params, 1.0))

    def outputs(t: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        g = SMALL.deform(params | dict(zip(names, values, strict=True)), t)
        return g.means, g.quats, g.scales, g.opacities, g.sh

    inputs = [torch.tensor(0.37, dtype=torch.float64)] + [params[n] for n in names]
    assert torch.autograd.gradcheck(outputs, [x.clone().requires_grad_() for x in inputs], fast_mode=True)


def test_gradients_of_the_plane_losses() -> None:
    params = alive(n=3)
    names = [n for n in params if n.startswith("plane.") and n != "plane.aabb"]

    def loss(*values: Tensor) -> Tensor:
        return SMALL.regularise(params | dict(zip(names, values, strict=True)), 0.5)

    assert torch.autograd.gradcheck(loss, [params[n].clone().requires_grad_() for n in names], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_over_time_equals_a_loop(dtype: torch.dtype) -> None:
    params, times = {k: v.to(dtype) for k, v in alive().items()}, torch.tensor([0.1, 0.5, 0.9], dtype=dtype)
    together = torch.func.vmap(lambda t: SMALL.deform(params, t).means)(times)
    torch.testing.assert_close(together, torch.stack([SMALL.deform(params, float(t)).means for t in times]))


def test_second_difference_of_a_parabola_is_its_curvature() -> None:
    x = torch.arange(7, dtype=torch.float64)
    plane = (1.5 * x * x).expand(1, 2, 3, 7)
    assert hexplane.second_difference(plane, -1).item() == pytest.approx(9.0)
    assert hexplane.second_difference(plane, -2).item() == 0.0
    assert hexplane.second_difference(plane[..., :2], -1).item() == 0.0


def test_spatial_variation_sees_both_axes_unless_told_otherwise() -> None:
    params = alive()
    for name in [n for n in params if n.startswith("plane.") and n != "plane.aabb"]:
        x = torch.arange(params[name].shape[3], dtype=torch.float64)
        params[name] = (x * x).expand_as(params[name])
    assert hexplane.spatial_variation(params, both=False).item() == 0.0
    assert hexplane.spatial_variation(params).item() == pytest.approx(0.5 * 4.0 * 6)


def test_plane_losses_are_weighted_sums() -> None:
    params = alive()
    terms = [
        HexPlane(plane_tv=a, time_smoothness=b, time_l1=c).regularise(params, 0.0)
        for a, b, c in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 3, 4))
    ]
    torch.testing.assert_close(2 * terms[0] + 3 * terms[1] + 4 * terms[2], terms[3])
    assert all(term > 0 for term in terms)


def test_the_coarse_stage_has_no_plane_losses() -> None:
    assert HexPlane().at_step(0, 100).regularise(alive(), 0.0).item() == 0.0


def test_stages_follow_the_fraction_of_the_run() -> None:
    prior = HexPlane(coarse_until=0.2)
    assert [prior.at_step(s, 50).deforming for s in (0, 9, 10, 50)] == [False, False, True, True]
    assert prior.at_step(50, 50) == prior


def test_rates_name_all_but_the_buffers_and_wait_for_the_fine_stage() -> None:
    params = SMALL.init(golden.cloud(5))
    rates = SMALL.param_groups(params, 2.0)
    assert set(params) - set(rates) == {"plane.aabb", "mlp.unit"}
    assert rates["plane.0.0"].at(SMALL.coarse_until - 0.01) == 0.0 < rates["plane.0.0"].at(SMALL.coarse_until)
    assert rates["gaussian.means"].at(0.0) == pytest.approx(3.2e-4)
    assert HexPlane.n3v().param_groups(params, 2.0)["plane.1.3"].at(1.0) == pytest.approx(3.2e-4)


def test_rates_leave_unused_heads_alone() -> None:
    params = SMALL.init(golden.cloud(5))
    named = HexPlane(heads=("means",)).param_groups(params, 1.0)
    assert {n.split(".")[1] for n in named if n.startswith("mlp.")} == {"trunk", "means"}


def test_a_model_does_not_depend_on_the_units_of_the_world() -> None:
    small, big = golden.cloud(30), golden.cloud(30)
    big = PointCloud(big.points * 100, big.colors)
    a, b = (SMALL.init(c, torch.Generator().manual_seed(3)) for c in (small, big))
    for params in (a, b):
        params["mlp.means.1.bias"] += 1.0
    near, far = (SMALL.deform(p, 0.2).means - p["gaussian.means"] for p in (a, b))
    torch.testing.assert_close(100 * near, far, rtol=1e-4, atol=1e-5)


def test_the_box_leaves_strays_outside() -> None:
    points = torch.cat([torch.rand(198, 3), torch.tensor([[50.0, 50, 50], [-50, -50, -50]])])
    box = HexPlane(bounds_quantile=0.01).init(PointCloud(points, torch.rand(200, 3)))["plane.aabb"]
    assert box.abs().max() <= 1.0
    assert HexPlane(bounds_quantile=0.0).init(PointCloud(points, torch.rand(200, 3)))["plane.aabb"].abs().max() == 50.0


def test_a_flat_cloud_gives_finite_states() -> None:
    flat = PointCloud(torch.rand(10, 3) * torch.tensor([1.0, 1.0, 0.0]), torch.rand(10, 3))
    assert torch.isfinite(SMALL.deform(SMALL.init(flat), 0.5).means).all()


def test_gaussians_can_be_taken_without_touching_the_field() -> None:
    params = alive()
    keep = torch.tensor([True, False, True, True, False, False])
    torch.testing.assert_close(SMALL.deform(take(params, keep), 0.3).means, SMALL.deform(params, 0.3).means[keep])


@pytest.mark.parametrize("prior", [HexPlane(), HexPlane.n3v(), HexPlane.technicolor(), HexPlane.for_clip(7)])
def test_options_survive_a_round_trip(prior: HexPlane) -> None:
    assert from_config("hexplane", to_config(prior)) == prior


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="time_axis"):
        HexPlane(time_axis="lower")
    with pytest.raises(ConfigError, match=r"heads.*'colour'"):
        HexPlane(heads=("means", "colour"))


def test_a_missing_tensor_is_named() -> None:
    params = alive()
    del params["plane.aabb"]
    with pytest.raises(ShapeError, match=r"plane\.aabb"):
        SMALL.deform(params, 0.0)
