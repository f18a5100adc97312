from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from moegs.deform import from_config, reformulation, to_config
from moegs.deform.reformulation import Reformulation
from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import covariances
from moegs.gaussians.harmonics import colors, evaluate
from moegs.gaussians.params import Params, join
from moegs.gaussians.quaternions import to_matrix
from moegs.render.camera import Camera
from moegs.render.seen import with_colors
from tests.deform import _golden as golden
from tests.deform._gradients import mixed

N3V, JACKS, STILL = (f"4d-gaussian-splatting/{c}_n64" for c in ("n3v_default", "dnerf_jumpingjacks", "n3v_norot4d"))
CASES = {
    N3V: replace(Reformulation.n3v(), cutoff=0.0),
    JACKS: replace(Reformulation.n3v(), cutoff=0.0, time_span=1.0),
    STILL: replace(Reformulation.n3v(), cutoff=0.0, rot_4d=False),
}
SMALL = Reformulation(sh_degree=1, time_start=0.5, time_span=2.0)
ALL = [(case, label) for case in CASES for label in golden.TIMES]


def loaded(case: str) -> tuple[Params, dict[str, Tensor]]:
    values = golden.expected(case)
    own = {
        "gaussian.times": values["loaded/t"][:, 0],
        "gaussian.log_time_scales": values["loaded/scaling_t"][:, 0],
        "gaussian.quats_right": values.get("loaded/rotation_r", values["loaded/rotation"]),
    }
    return golden.canonical(values) | own, values


def doubled(params: Params) -> Params:
    return {k: v.double() for k, v in params.items()}


def alive(n: int = 6, config: Reformulation = SMALL) -> Params:
    """Float64 params in general position: rotated in space and time."""
    params = config.init(golden.cloud(n), torch.Generator().manual_seed(0))
    return golden.randomised(params, list(config.param_groups(params, 1.0)), scale=0.3)


def six(covars: Tensor) -> Tensor:
    """xx xy xz yy yz zz."""
    rows, columns = torch.triu_indices(3, 3)
    return covars[:, rows, columns]


@pytest.mark.parametrize(("case", "label"), ALL)
def test_states_match_those_of_the_original_in_float64(case: str, label: str) -> None:
    params, values = loaded(case)
    cut = CASES[case].deform(doubled(params), golden.TIMES[label])
    close = {"rtol": 1e-9, "atol": 1e-9}
    means = values.get(f"{label}/f64/means", values["loaded/xyz"].double())
    covars = values.get(f"{label}/f64/covariance_6", values.get("hand/covariance_6_as_cuda"))
    torch.testing.assert_close(cut.means, means, **close)
    torch.testing.assert_close(six(covariances(cut)), covars, **close)
    torch.testing.assert_close(cut.opacities, values[f"{label}/f64/opacities"][:, 0], **close)


@pytest.mark.parametrize(("case", "label"), ALL)
def test_states_match_those_of_the_original(case: str, label: str) -> None:
    params, values = loaded(case)
    cut = CASES[case].deform(params, golden.TIMES[label])
    close = {"rtol": 1e-5, "atol": 1e-5}
    exact = values.get(f"{label}/f64/means", values["loaded/xyz"])
    covars = values.get(f"{label}/f64/covariance_6", values.get("hand/covariance_6_as_cuda"))
    torch.testing.assert_close(cut.means, exact.float(), **close)
    torch.testing.assert_close(six(covariances(cut)), covars.float(), **close)
    torch.testing.assert_close(cut.opacities, values[f"{label}/opacities"][:, 0], **close)


@pytest.mark.parametrize(("case", "label"), ALL)
def test_colours_match_those_of_the_original(case: str, label: str) -> None:
    params, values = loaded(case)
    cut = CASES[case].deform(params, golden.TIMES[label])
    fixed, camera = values["fixed_dirs"], values["camera_center"]
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(evaluate(cut.sh, fixed), values[f"{label}/sh_value_fixed_dirs"], **close)
    torch.testing.assert_close(colors(cut.sh, fixed), values[f"{label}/rgb_fixed_dirs"], **close)
    directions = normalize(values[f"{label}/means"] - camera, dim=-1)
    seen = values[f"{label}/rgb_camera_dir_displaced_mean"]
    torch.testing.assert_close(colors(cut.sh, directions), seen, **close)
    # the kernels look at the means of each Gaussian's own time
    looking = Camera(torch.eye(4), torch.eye(3), 8, 8)
    looking.viewmat[:3, 3] = -camera
    shown = with_colors(replace(cut, anchors=params["gaussian.means"]), looking)
    kernels = values[f"{label}/rgb_camera_dir_canonical_mean"]
    torch.testing.assert_close((evaluate(shown.sh, fixed[:1].expand(len(cut), 3)) + 0.5).clamp_min(0), kernels, **close)
    resting = replace(CASES[case], seen_at="rest").deform(params, golden.TIMES[label])
    if CASES[case].rot_4d:
        assert torch.equal(resting.anchors, params["gaussian.means"])
    else:
        assert resting.anchors is None  # nothing moves


@pytest.mark.parametrize(("case", "label"), ALL)
def test_the_cutoff_drops_what_the_original_drops(case: str, label: str) -> None:
    params, values = loaded(case)
    cut = replace(CASES[case], cutoff=0.05).deform(params, golden.TIMES[label])
    kept = values[f"{label}/mask"].reshape(-1)
    assert torch.equal(cut.opacities > 0, kept)
    torch.testing.assert_close(cut.opacities[kept], values[f"{label}/opacities"][kept, 0], rtol=1e-5, atol=1e-5)


def test_equal_quaternions_rotate_space_alone() -> None:
    quats = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = reformulation.rotation(quats, 3 * quats)
    signs = torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    torch.testing.assert_close(turn[:, :3, :3], to_matrix(signs * quats[:, [0, 3, 2, 1]]))
    torch.testing.assert_close(turn[:, 3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(5, 4))


def test_rotations_are_orthogonal_in_either_order_of_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(7, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    late, early = (reformulation.rotation(left, right, flipped=f) for f in (True, False))
    torch.testing.assert_close(late @ late.mT, torch.eye(4, dtype=torch.float64).expand(7, 4, 4))
    torch.testing.assert_close(torch.linalg.det(late), torch.ones(7, dtype=torch.float64))
    assert torch.equal(early, late.flip(-1, -2))


@pytest.mark.parametrize("flipped", [False, True])
def test_every_rotation_has_rotors(flipped: bool) -> None:
    turns = torch.linalg.qr(torch.randn(50, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    turns[:, :, 0] *= torch.linalg.det(turns)[:, None]
    turns[0] = torch.eye(4)
    left, right = reformulation.rotors(turns, flipped)
    torch.testing.assert_close(torch.linalg.vector_norm(left, dim=1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(reformulation.rotation(left, right, flipped), turns)


def test_the_cut_is_the_schur_complement() -> None:
    params = alive()
    turn = reformulation.rotation(params["gaussian.quats"], params["gaussian.quats_right"])
    logs = torch.cat([params["gaussian.scales"], params["gaussian.log_time_scales"][:, None]], dim=1)
    sigma = turn @ torch.diag_embed((2 * logs).exp()) @ turn.mT
    s12, s44 = sigma[:, :3, 3:], sigma[:, 3:, 3:]
    cut, ahead = SMALL.deform(params, 0.3), 0.5 + 0.3 * 2.0 - params["gaussian.times"]
    torch.testing.assert_close(cut.covars, sigma[:, :3, :3] - s12 @ s12.mT / s44)
    torch.testing.assert_close(cut.means, params["gaussian.means"] + (s12 / s44)[..., 0] * ahead[:, None])
    share = torch.exp(-0.5 * ahead**2 / s44[:, 0, 0])
    torch.testing.assert_close(cut.opacities, share * torch.sigmoid(params["gaussian.opacities"]))


def test_covariances_stay_positive_where_the_schur_complement_does_not() -> None:
    params = {k: v.float() for k, v in alive(50).items()}
    params["gaussian.scales"] = params["gaussian.scales"] * 0 - 9
    params["gaussian.log_time_scales"] = params["gaussian.log_time_scales"] * 0 + 3
    assert (torch.linalg.eigvalsh(SMALL.deform(params, 0.2).covars.double()) > 0).all()


def test_colours_are_sums_of_cosines() -> None:
    params = alive()
    sh = torch.cat([params["gaussian.sh_dc"], params["gaussian.sh_rest"]], dim=1)
    phase = (2 * torch.pi * (1.1 - params["gaussian.times"]) / 2.0)[:, None, None]
    for degree in (0, 1, 2):
        expected = sum((i * phase).cos() * sh[:, 4 * i : 4 * i + 4] for i in range(degree + 1))
        torch.testing.assert_close(replace(SMALL, sh_degree_t=degree).deform(params, 0.3).sh, expected)


def test_too_few_colour_coefficients_are_refused() -> None:
    params = alive()
    params["gaussian.sh_rest"] = params["gaussian.sh_rest"][:, :10]
    with pytest.raises(ShapeError, match=r"sh_rest.*11 coefficients, found 10"):
        SMALL.deform(params, 0.0)


def test_a_fresh_model_is_at_rest_and_brightest_at_its_times() -> None:
    cloud = golden.cloud(20)
    timed = PointCloud(cloud.points, cloud.colors, torch.linspace(0, 0.9, 20))
    prior = Reformulation(initial_time_scale=0.1)
    params = prior.init(timed)
    early, late = prior.deform(params, 0.0), prior.deform(params, 0.9)
    assert torch.equal(early.means, late.means)
    assert early.opacities.argmax() == 0 and late.opacities.argmax() == 19
    assert late.opacities[19].item() == pytest.approx(0.1, rel=1e-4)


def test_random_times_cover_a_little_more_than_the_clip() -> None:
    params = SMALL.init(golden.cloud(500), torch.Generator().manual_seed(0))
    when = (params["gaussian.times"] - 0.5) / 2.0
    assert -0.1 <= when.min() < -0.08 and 1.08 < when.max() <= 1.1


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, rot_4d=False), replace(SMALL, flipped=False)])
def test_gradients_in_every_parameter_and_in_time(config: Reformulation) -> None:
    params = alive(n=3)
    names = list(config.param_groups(params, 1.0))

    def outputs(t: Tensor, *values: Tensor) -> Tensor:
        g = config.deform(params | dict(zip(names, values, strict=True)), t)
        return mixed(g.means, covariances(g), g.opacities, g.sh)

    inputs = [torch.tensor(0.37, dtype=torch.float64)] + [params[n] for n in names]
    assert torch.autograd.gradcheck(outputs, [x.clone().requires_grad_() for x in inputs])


def test_gradients_of_the_losses() -> None:
    params = alive(n=6)
    prior = replace(SMALL, rigidity=0.5, stillness=0.2, neighbours=3, patch=5)
    names = ["gaussian.quats", "gaussian.quats_right", "gaussian.scales", "gaussian.log_time_scales"]

    def loss(*values: Tensor) -> Tensor:
        return prior.regularise(params | dict(zip(names, values, strict=True)), 0.5)

    assert torch.autograd.gradcheck(loss, [params[n].clone().requires_grad_() for n in names])


def test_losses_vanish_without_weight_and_without_motion() -> None:
    prior = replace(SMALL, rigidity=1.0, stillness=1.0)
    still = prior.init(golden.cloud(30))
    assert SMALL.regularise(alive(), 0.0).item() == 0.0
    assert prior.regularise(still, 0.0).item() < 1e-8
    assert prior.regularise(alive(30), 0.0).item() > 0.1


def test_vmap_over_time_equals_a_loop() -> None:
    params, times = alive(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    together = torch.func.vmap(lambda t: SMALL.deform(params, t).covars)(times)
    torch.testing.assert_close(together, torch.stack([SMALL.deform(params, float(t)).covars for t in times]))


def test_velocity_is_the_derivative_of_the_mean() -> None:
    params = alive()
    later, sooner = SMALL.deform(params, 0.75).means, SMALL.deform(params, 0.25).means
    torch.testing.assert_close(reformulation.velocity(params, SMALL), later - sooner)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, rot_4d=False)])
def test_jitter_slides_along_the_path(config: Reformulation) -> None:
    params = alive()
    moved = config.jittered(params, torch.Generator().manual_seed(1))
    assert (moved["gaussian.times"] - params["gaussian.times"]).abs().min() > 1e-4
    for t in (0.0, 0.7):
        torch.testing.assert_close(config.deform(moved, t).means, config.deform(params, t).means)
    copies = config.jittered(join([params, params]), torch.Generator().manual_seed(1))["gaussian.times"]
    assert (copies[:6] - copies[6:]).abs().min() > 1e-4
    assert copies.min() >= 0.5 - 0.2 and copies.max() <= 0.5 + 2.2


def test_shrinking_spares_time_unless_told_otherwise() -> None:
    params = alive()
    both, space = replace(SMALL, split_time=True).shrunk(params, 1.6), SMALL.shrunk(params, 1.6)
    name = "gaussian.log_time_scales"
    assert torch.equal(space[name], params[name])
    torch.testing.assert_close(both[name].exp() * 1.6, params[name].exp())
    torch.testing.assert_close(both["gaussian.scales"], space["gaussian.scales"])


def test_without_a_span_the_world_sets_it() -> None:
    cloud = PointCloud(torch.tensor([[0.0, 0, 0], [6.0, 1, 2]]), torch.rand(2, 3))
    prior = Reformulation()
    params = prior.init(cloud)
    assert params["time.span"].item() == pytest.approx(2.0)
    assert prior.param_groups(params, 5.0)["gaussian.times"].at(0.3) == pytest.approx(2 * prior.lr_times)
    del params["time.span"]
    with pytest.raises(ShapeError, match=r"time\.span"):
        prior.deform(params, 0.0)


@pytest.mark.parametrize(("kind", "variance"), [("deviation", 4.0), ("itself", 2.0)])
def test_variance_in_time_without_4d_rotation(kind: str, variance: float) -> None:
    config = replace(SMALL, rot_4d=False, variance_from=kind)
    params = config.init(golden.cloud(1)) | {"gaussian.log_time_scales": torch.tensor([2.0]).log()}
    ahead = 0.5 + 2.0 - params["gaussian.times"]
    expected = 0.1 * torch.exp(-0.5 * ahead**2 / variance)
    torch.testing.assert_close(config.deform(params, 1.0).opacities, expected)


def test_a_filtered_variance_widens_the_opacity_alone() -> None:
    params = alive()
    plain, wide = SMALL.deform(params, 0.1), replace(SMALL, prefilter_var=0.5).deform(params, 0.1)
    assert (wide.opacities > plain.opacities).all()
    assert torch.equal(wide.covars, plain.covars)


def test_cosines_join_in_the_course_of_the_run() -> None:
    prior = Reformulation()
    assert [prior.at_step(s, 30000).sh_degree_t for s in (0, 3999, 4000, 5000, 30000)] == [0, 0, 1, 2, 2]
    assert replace(prior, sh_degree_t=1).at_step(20000, 30000).sh_degree_t == 1
    assert prior.at_step(7, 7) == prior


def test_rates_name_all_but_the_span() -> None:
    params = SMALL.init(golden.cloud(5))
    assert set(params) - set(SMALL.param_groups(params, 2.0)) == {"time.span"}
    assert "gaussian.quats_right" not in replace(SMALL, rot_4d=False).param_groups(params, 2.0)
    assert Reformulation.n3v().param_groups(params, 2.0)["gaussian.times"].at(1.0) == pytest.approx(7e-4)


@pytest.mark.parametrize(
    "prior", [Reformulation(), Reformulation.n3v(), Reformulation.technicolor(), Reformulation.for_clip(12)]
)
def test_options_survive_a_round_trip(prior: Reformulation) -> None:
    assert from_config("reformulation", to_config(prior)) == prior


@pytest.mark.parametrize("options", [{"variance_from": "squares"}, {"sh_degree_t": 3}, {"time_span": -1.0}])
def test_unknown_choices_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Reformulation(**options)
