"""Checkpoints that the originals' own code wrote, against the states that their own code computes."""

from __future__ import annotations

import pytest
import torch

from moegs import interop
from moegs.expert import Expert, load_expert, save_expert
from moegs.gaussians import harmonics
from moegs.gaussians.container import covariances
from moegs.gaussians.quaternions import normalize
from tests.interop.support import LABELS, NETWORK, PLAIN, assert_same_tensors, assert_state, case, close, header

NETWORKS = [
    "4DGaussians/n3v_default_n64",
    "4DGaussians/n3v_deep_n64",
    "E-D3DGS/n3v_default_n64",
    "E-D3DGS/technicolor_n64",
]
SPACETIME = [
    "SpacetimeGaussians/full_n3v_n64",
    "SpacetimeGaussians/full_technicolor_n64",
    "SpacetimeGaussians/lite_n3v_n64",
]
FOUR_DGS = [
    "4d-gaussian-splatting/n3v_default_n64",
    "4d-gaussian-splatting/dnerf_jumpingjacks_n64",
    "4d-gaussian-splatting/n3v_norot4d_n64",
]
EX4DGS = "Ex4DGS/n3v_default_n64"
STAGE2 = "moegs-official/n3v_E3_n64"
SPANS = {"4d-gaussian-splatting/dnerf_jumpingjacks_n64": {"time_duration": (0.0, 1.0)}}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_match_the_original(name: str) -> None:
    checkpoint, expected = case(name)
    expert = interop.load(checkpoint)
    for label, t in LABELS.items():
        assert_state(expert.at(t), expected, label, NETWORK)
    assert expert.options.near == 0.2 and expert.background == (1.0, 1.0, 1.0)


def test_coarse_stages_are_not_picked() -> None:
    checkpoint, expected = case("4DGaussians/n3v_deep_n64")
    expert = interop.load(checkpoint)
    assert torch.equal(expert.params["gaussian.means"], expected["loaded/xyz"])
    assert expert.meta["iteration"] == 14000


@pytest.mark.parametrize("name", NETWORKS[2:])
def test_camera_offsets_and_training_step(name: str) -> None:
    checkpoint, expected = case(name)
    assert_state(interop.load(checkpoint).at(0.5, camera=3), expected, "cam3_t0.500", NETWORK)
    if "iter6000_t0.500/means" in expected:
        assert_state(interop.load(checkpoint, step=6000).at(0.5), expected, "iter6000_t0.500", NETWORK)


@pytest.mark.parametrize("name", SPACETIME)
def test_spacetime_matches_the_original(name: str) -> None:
    checkpoint, expected = case(name)
    expert = interop.load(checkpoint)
    for label, t in LABELS.items():
        found = expert.at(t)
        assert_state(found, expected, label, PLAIN)
        if found.features is not None:
            close(found.features, expected[f"{label}/features"], PLAIN, "features")
        else:
            close(harmonics.to_rgb(found.sh[:, 0]), expected[f"{label}/rgb"], PLAIN, "rgb")
    assert expert.background == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", SPACETIME[:2])
def test_spacetime_keeps_its_decoder(name: str) -> None:
    checkpoint, expected = case(name)
    expert = interop.load(checkpoint)
    features, rays = (expected[f"decoder/{k}"][0].movedim(0, -1) for k in ("feature_map", "rays"))
    close(expert.decode(features, rays), expected["decoder/rgb"][0].movedim(0, -1), PLAIN, "decoded colours")


def test_a_chunk_is_the_same_motion_on_a_longer_clip() -> None:
    checkpoint, expected = case(SPACETIME[0])
    expert = interop.load(checkpoint, chunk=(2, 6))
    for label, t in LABELS.items():
        found = expert.at((2 + t) / 6)
        assert_state(found, expected, label, 1e-4)
        close(found.features, expected[f"{label}/features"], 1e-4, "features")


def test_ex4dgs_matches_the_original() -> None:
    checkpoint, expected = case(EX4DGS)
    trained, by_config = interop.load(checkpoint), interop.load(checkpoint, duration=300)
    for label, t in (
        LABELS.items() | {"frame_last": 299 / 300, "frame_frac": 47.25 / 300, "frame_key": 28 / 300}.items()
    ):
        assert_state(by_config.at(t), expected, label, PLAIN)
        close(trained.at(t).means, expected[f"chkpnt/{label}/means"], PLAIN, "means with the trained duration")
        close(trained.at(t).sh, expected["static_in_time/sh"], 0.0, "sh")
    assert (trained.options.eps2d, trained.options.compensate) == (0.1, True)
    assert (trained.options.near, trained.options.far) == (4.0, 300.0)


def test_ex4dgs_static_rotations_as_the_kernel_takes_them() -> None:
    checkpoint, expected = case(EX4DGS)
    found = interop.load(checkpoint, static_rotations="raw").at(0.5).covars
    w, x, y, z = expected["t0.500/rotations_passed"].unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    m = torch.stack(rows, -1).unflatten(-1, (3, 3)) * expected["t0.500/scales"][:, None]
    close(found, m @ m.mT, PLAIN, "covariances")


def test_ex4dgs_from_its_checkpoint_alone() -> None:
    checkpoint, _ = case(EX4DGS)
    alone = interop.load(checkpoint / "chkpnt40000.pth")
    assert_same_tensors(alone.params, interop.load(checkpoint).params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FOUR_DGS)
def test_4dgs_matches_the_original(name: str, dtype: torch.dtype) -> None:
    checkpoint, expected = case(name)
    expert = interop.load(checkpoint, **SPANS.get(name, {})).to(dtype)
    i, j = torch.triu_indices(3, 3)
    for label, t in LABELS.items():
        found = expert.at(t)
        mask = expected[f"{label}/mask"]
        opacities = expected[f"{label}/f64/opacities"][:, 0]
        close(found.opacities[mask], opacities[mask], PLAIN, "opacities")
        assert not found.opacities[~mask].any()
        means = expected.get(f"{label}/f64/means", expected[f"{label}/means"])
        close(found.means, means, PLAIN, "means")
        covars = expected.get("hand/covariance_6_as_cuda", expected.get(f"{label}/f64/covariance_6"))
        close(covariances(found)[:, i, j], covars, PLAIN, "covariances")
        rgb = harmonics.colors(found.sh, expected["fixed_dirs"].to(dtype))
        close(rgb, expected[f"{label}/rgb_fixed_dirs"], PLAIN, "colours")


def test_4dgs_prefers_the_last_iteration_to_the_best() -> None:
    checkpoint, _ = case(FOUR_DGS[0])
    assert interop.load(checkpoint).meta["iteration"] == 30000
    assert_same_tensors(interop.load(checkpoint, iteration="best").params, interop.load(checkpoint).params)


def test_stage2_matches_the_original() -> None:
    checkpoint, expected = case(STAGE2)
    mixture = interop.load_mixture(checkpoint)
    for name in [k for k in expected if k.endswith("Ex4DGS/rotations")]:
        expected[name] = normalize(expected[name])  # recorded as the kernel gets them, of any length
    assert mixture.names == ("Ex4DGS", "E-D3DGS", "4DGaussians")
    rays = expected["rays"][0]
    for label, t in LABELS.items():
        logits = []
        for k, name in enumerate(mixture.names):
            atol = PLAIN if name == "Ex4DGS" else NETWORK
            assert_state(mixture.experts[k].at(t), expected, f"{label}/{name}", atol)
            close(mixture.motion_mask(k, t), expected[f"{label}/{name}/motion_mask"], PLAIN, "router weights")
            logits.append(mixture.pixel_weight(expected[f"{label}/{name}/splatted"], rays))
        stacked = torch.stack(logits)
        close(stacked, expected[f"{label}/pixel_weight"], PLAIN, "pixel weights")
        close((stacked / 0.01).softmax(0), expected[f"{label}/gate_temperature_0.01"], NETWORK, "gates")
        close(stacked.softmax(0), expected[f"{label}/gate_no_temperature"], PLAIN, "gates")
    assert mixture.temperature == 0.01
    k = mixture.names.index("E-D3DGS")
    assert_state(mixture.experts[k].at(0.5, camera=0), expected, "cam_no0_t0.500/E-D3DGS", NETWORK)


@pytest.mark.parametrize("name", [*NETWORKS, *SPACETIME, *FOUR_DGS, EX4DGS])
def test_round_trip_through_the_original_layout_is_lossless(name: str, tmp_path) -> None:
    expert = interop.load(case(name)[0], **SPANS.get(name, {}))
    interop.export(expert, tmp_path)
    again = interop.load(tmp_path)
    assert_same_tensors(again.params, expert.params)
    assert again.prior == expert.prior
    assert (again.options, again.background, again.decoder) == (expert.options, expert.background, expert.decoder)


@pytest.mark.parametrize("name", [NETWORKS[1], NETWORKS[3], *SPACETIME[1:], FOUR_DGS[0], EX4DGS])
def test_imports_survive_our_own_file(name: str, tmp_path) -> None:
    expert = interop.load(case(name)[0])
    save_expert(expert, tmp_path / "expert.safetensors")
    again: Expert = load_expert(tmp_path / "expert.safetensors")
    assert_same_tensors(again.params, expert.params)
    assert header(again) == header(expert)
