from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from moegs.deform import _neighbours, embedding, from_config, to_config
from moegs.deform.embedding import Embedding
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.params import Params, take
from tests.deform import _golden as golden

N3V, TECHNICOLOR = "E-D3DGS/n3v_default_n64", "E-D3DGS/technicolor_n64"
CASES = {N3V: (80000, Embedding.n3v()), TECHNICOLOR: (100000, Embedding.technicolor())}
HEADS = {"pos": "means", "scales": "scales", "rotations": "quats", "opacity": "opacities", "rgb": "sh"}
STAGES = {"c": "coarse", "f": "fine"}
SMALL = Embedding(
    sh_degree=1, gaussian_size=3, temporal_size=4, rows=5, coarse_rows=2, width=6, color_coefficients=4, cameras=3
)


def renamed(state: dict[str, Tensor]) -> Params:
    """E-D3DGS' deformation.pth under our names."""
    params = {"temporal.weight": state["weight"], "camera.offsets": state["offsets"]}
    for key, value in state.items():
        kind, *rest = key.split(".")
        if rest:
            kind, stage = kind.rsplit("_", 1)
            head = HEADS.get(kind.removesuffix("_deform"), "trunk")
            params[f"mlp.{STAGES[stage]}.{head}.{int(rest[0]) // 2}.{rest[1]}"] = value
    return params


def loaded(case: str) -> tuple[Params, dict[str, Tensor]]:
    values = golden.expected(case)
    codes = {"gaussian.embeddings": values["loaded/embedding"]}
    return golden.canonical(values) | codes | renamed(golden.weights(case, CASES[case][0])), values


def alive(seed: int = 0, n: int = 6, config: Embedding = SMALL) -> Params:
    """Float64 params in which every part of the networks does something."""
    params = config.init(golden.cloud(n), torch.Generator().manual_seed(seed))
    return golden.randomised(params, list(config.param_groups(params, 1.0)))


@pytest.mark.parametrize("label", golden.TIMES)
@pytest.mark.parametrize("case", CASES)
def test_states_match_those_of_the_original(case: str, label: str) -> None:
    params, values = loaded(case)
    golden.check(CASES[case][1].deform(params, golden.TIMES[label]), values, label, atol=5e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_named_camera_has_its_own_clock(case: str) -> None:
    params, values = loaded(case)
    golden.check(CASES[case][1].deform(params, 0.5, camera=3), values, "cam3_t0.500", atol=5e-5)


def test_an_unfinished_run_matches_the_original() -> None:
    params, values = loaded(N3V)
    golden.check(Embedding.n3v().at_step(6000, 80000).deform(params, 0.5), values, "iter6000_t0.500", atol=5e-5)


@pytest.mark.parametrize("label", golden.TIMES)
@pytest.mark.parametrize("case", CASES)
def test_the_coarse_network_alone_matches_the_original(case: str, label: str) -> None:
    params, values = loaded(case)
    coarse = replace(CASES[case][1], stages=("coarse",)).deform(params, golden.TIMES[label])
    torch.testing.assert_close(coarse.means, values[f"{label}/coarse_means"], rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(coarse.scales, values[f"{label}/coarse_raw_scales"].exp(), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("label", golden.TIMES)
@pytest.mark.parametrize("case", CASES)
def test_temporal_codes_match_those_of_the_original(case: str, label: str) -> None:
    params, values = loaded(case)
    time = torch.tensor(golden.TIMES[label]) + values["loaded/mean_nonzero_offset"][0]
    config = CASES[case][1]
    for stage, rows in (("coarse", config.coarse_rows), ("fine", 0)):
        code = embedding.temporal_code(params["temporal.weight"], time, rows)
        torch.testing.assert_close(code, values[f"{label}/temporal_embedding_{stage}"], rtol=1e-5, atol=5e-5)


def test_codes_interpolate_resize_and_reflect() -> None:
    weight = torch.tensor([[0.0], [10.0], [0.0], [10.0], [20.0]])

    def code(t: float, rows: int = 0) -> float:
        return embedding.temporal_code(weight, torch.tensor(t), rows).item()

    assert [code(t) for t in (0.0, 0.125, 0.25, 0.75, 1.0)] == pytest.approx([0, 5, 10, 10, 20])
    assert [code(t, 2) for t in (0.0, 0.5, 1.0)] == pytest.approx([0, 10, 20])
    assert [code(t, 3) for t in (0.25, 0.75)] == pytest.approx([0, 10])
    assert code(-0.125) == pytest.approx(5)
    assert code(1.25) == pytest.approx(10)
    assert embedding.temporal_code(weight[:1], torch.tensor(0.7)).item() == 0.0
    assert code(0.7, 1) == 0.0


def test_unseen_cameras_get_the_mean_of_the_offsets_that_are_not_zero() -> None:
    params = alive()
    params["camera.offsets"] = torch.tensor([[0.0], [0.04], [0.02]], dtype=torch.float64)
    still = params | {"camera.offsets": torch.zeros(3, 1, dtype=torch.float64)}
    shifted = SMALL.deform(still, 0.53).means
    for camera in (None, 7):
        torch.testing.assert_close(SMALL.deform(params, 0.5, camera).means, shifted)
    torch.testing.assert_close(SMALL.deform(params, 0.5, 2).means, SMALL.deform(still, 0.52).means)
    torch.testing.assert_close(SMALL.deform(params, 0.5, 0).means, SMALL.deform(still, 0.5).means)


def test_a_fresh_model_is_at_rest() -> None:
    params = SMALL.init(golden.cloud(20), torch.Generator().manual_seed(0))
    assert torch.equal(SMALL.deform(params, 0.4).means, params["gaussian.means"])
    random = replace(SMALL, zero_heads=False)
    params = random.init(golden.cloud(20), torch.Generator().manual_seed(0))
    assert (random.deform(params, 0.4).means - params["gaussian.means"]).abs().max() > 1e-3


def test_gains_scale_what_they_are_said_to() -> None:
    params = alive()
    rest = SMALL.deform(params, 0.4)
    early, late = (replace(SMALL, **{g: 0.0}).deform(params, 0.4) for g in ("gain", "late_gain"))
    none = replace(SMALL, gain=0.0, late_gain=0.0).deform(params, 0.4)
    assert torch.equal(none.means, params["gaussian.means"])
    assert torch.equal(early.means, none.means) and torch.equal(early.sh, rest.sh)
    assert torch.equal(early.scales, none.scales) and torch.equal(late.scales, none.scales)
    assert torch.equal(late.quats, rest.quats) and torch.equal(late.sh, none.sh)


def test_growth_and_annealing_follow_the_run() -> None:
    prior = Embedding.n3v()
    rows = [prior.at_step(s, 80000).fine_rows for s in (0, 1000, 6000, 9999, 10000, 80000)]
    assert rows == [30, 42, 102, 149, 0, 0]
    gains = [(p.gain, p.late_gain) for p in (prior.at_step(s, 80000) for s in (0, 500, 5500, 6000, 80000))]
    assert gains == [pytest.approx(g) for g in ((0, 0), (0.5, 0), (1, 0.5), (1, 1), (1, 1))]
    assert prior.at_step(80000, 80000) == prior
    assert Embedding.technicolor().at_step(0, 100).fine_rows == 0


@pytest.mark.parametrize("camera", [None, 1])
def test_gradients_in_every_parameter_and_in_time(camera: int | None) -> None:
    params = alive(n=3)
    params["camera.offsets"] = torch.tensor([[0.01], [0.02], [0.0]], dtype=torch.float64)
    names = [n for n in SMALL.param_groups(params, 1.0) if n != "camera.offsets" or camera == 1]

    def outputs(t: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        g = SMALL.deform(params | dict(zip(names, values, strict=True)), t, camera)
        return g.means, g.quats, g.scales, g.opacities, g.sh

    inputs = [torch.tensor(0.37, dtype=torch.float64)] + [params[n] for n in names]
    assert torch.autograd.gradcheck(outputs, [x.clone().requires_grad_() for x in inputs], fast_mode=True)


def test_gradients_of_the_losses() -> None:
    params = alive(n=9)
    prior = replace(SMALL, neighbours=3, patch=6, temporal_tv=0.3, opacity_weight=0.2)
    names = ["gaussian.embeddings", "gaussian.opacities", "temporal.weight"]

    def loss(*values: Tensor) -> Tensor:
        return prior.regularise(params | dict(zip(names, values, strict=True)), 0.5)

    assert torch.autograd.gradcheck(loss, [params[n].clone().requires_grad_() for n in names])


def test_vmap_over_time_equals_a_loop() -> None:
    params, times = alive(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    together = torch.func.vmap(lambda t: SMALL.deform(params, t).means)(times)
    torch.testing.assert_close(together, torch.stack([SMALL.deform(params, float(t)).means for t in times]))


def test_roughness_of_two_gaussians_by_hand() -> None:
    params = {
        "gaussian.means": torch.tensor([[0.0, 0, 0], [0.03, 0, 0]]),
        "gaussian.embeddings": torch.tensor([[0.0, 0], [3.0, 4]]),
    }
    prior = Embedding(falloff=2000.0)
    assert embedding.unevenness(params, prior).item() == pytest.approx(5 * torch.tensor(-0.9).exp().item(), rel=1e-5)
    assert embedding.unevenness(take(params, torch.tensor([True, False])), prior).item() == 0.0


def test_relative_roughness_does_not_depend_on_the_units_of_the_world() -> None:
    params = alive(n=30)
    bigger = params | {"gaussian.means": 100 * params["gaussian.means"]}
    torch.testing.assert_close(embedding.unevenness(bigger, SMALL), embedding.unevenness(params, SMALL))


def test_roughness_of_patches_averages_to_that_of_the_whole() -> None:
    params = alive(n=300)
    params["gaussian.embeddings"] = params["gaussian.means"]
    prior = replace(SMALL, falloff=0.1, neighbours=5, patch=0)
    whole = embedding.unevenness(params, prior)
    draws = [embedding.unevenness(params, replace(prior, patch=100, draw=d)) for d in range(40)]
    assert torch.stack(draws).mean().item() == pytest.approx(whole.item(), rel=0.25)


def test_draws_reach_every_region_and_are_repeatable() -> None:
    points = golden.cloud(200).points
    seen = torch.cat([_neighbours.patch(points, 20, d) for d in range(60)]).unique()
    assert len(seen) > 150
    assert torch.equal(_neighbours.patch(points, 20, 5), _neighbours.patch(points, 20, 5))
    assert len(_neighbours.patch(points, 200, 5)) == 200


def test_a_tree_finds_the_same_neighbours_as_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    points = golden.cloud(50).points
    index, squared = _neighbours.neighbours(points, 4)
    monkeypatch.setattr(_neighbours, "MATRIX", 10)
    by_tree, tree_squared = _neighbours.neighbours(points, 4)
    assert torch.equal(index, by_tree)
    torch.testing.assert_close(squared, tree_squared)


def test_mean_opacity_both_ways() -> None:
    logits = torch.tensor([0.0, 4.0])
    assert embedding.mean_opacity(logits).item() == pytest.approx((0.5 + 0.98201) / 2, rel=1e-4)
    assert embedding.mean_opacity(logits, of_mean=True).item() == pytest.approx(0.88080, rel=1e-4)


def test_rates_leave_out_buffers_unused_heads_and_zeros() -> None:
    params = SMALL.init(golden.cloud(5))
    assert set(params) - set(SMALL.param_groups(params, 2.0)) == {"mlp.unit"}
    named = replace(SMALL, heads=("means",), stages=("fine",), lr_offsets=0.0).param_groups(params, 2.0)
    assert {n.split(".", 1)[1].rsplit(".", 2)[0] for n in named if n.startswith("mlp")} == {"fine.trunk", "fine.means"}
    assert "camera.offsets" not in named
    assert Embedding.n3v().param_groups(params, 2.0)["temporal.weight"].at(0) == pytest.approx(3.2e-4)


def test_a_model_does_not_depend_on_the_units_of_the_world() -> None:
    small = golden.cloud(30)
    big = PointCloud(small.points * 100, small.colors)
    a, b = (SMALL.init(c, torch.Generator().manual_seed(3)) for c in (small, big))
    for params in (a, b):
        params["mlp.fine.means.1.bias"] += 1.0
    near, far = (SMALL.deform(p, 0.2).means - p["gaussian.means"] for p in (a, b))
    torch.testing.assert_close(100 * near, far, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prior", [Embedding(), Embedding.n3v(), Embedding.technicolor(), Embedding.for_clip(12)])
def test_options_survive_a_round_trip(prior: Embedding) -> None:
    assert from_config("embedding", to_config(prior)) == prior


@pytest.mark.parametrize("options", [{"stages": ("medium",)}, {"coarse_rows": 200}, {"heads": ("color",)}])
def test_unknown_choices_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Embedding(**options)
