"""One benchmark an op: ``pytest benchmarks --benchmark-enable`` prints the table."""

from __future__ import annotations

import pytest

from benchmarks import workloads
from benchmarks.scenes import BenchScene, garden_scene, random_scene
from moegs.deform._planes import sample_planes, sample_planes_reference
from moegs.deform._splines import pose, pose_by_torch
from moegs.render import backends
from moegs.route import gated_blend
from moegs.route._network import network_logits, network_logits_by_torch

needs_native = pytest.mark.skipif(not backends.native_available(), reason="the native module is not built")

SMALL = random_scene(5_000, 128, 96)


@pytest.fixture(scope="module", params=["random 10k", "garden 50k"])
def scene(request: pytest.FixtureRequest) -> BenchScene:
    """Scenes for the native backend."""
    made = random_scene(10_000, 320, 240) if request.param == "random 10k" else garden_scene(50_000, 676, 507)
    if made is None:
        pytest.skip("the captured garden is not beside this checkout")
    return made


@needs_native
def test_native_render(benchmark, scene: BenchScene) -> None:
    benchmark(workloads.render_forward(scene, "native"))


@needs_native
def test_native_render_and_gradient(benchmark, scene: BenchScene) -> None:
    benchmark(workloads.render_forward_backward(scene, "native"))


@needs_native
@pytest.mark.parametrize(
    "how",
    ["one call with 3 groups", "three calls", "pictures of one call", "pictures of three calls", "mixed up", "one model"],
)
def test_native_groups(benchmark, scene: BenchScene, how: str) -> None:
    benchmark(workloads.three_groups(scene, "native")[how])


def test_reference_render_and_gradient(benchmark) -> None:
    benchmark.pedantic(workloads.render_forward_backward(SMALL, "reference"), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("reference", [False, True], ids=["native", "torch"])
def test_loss_and_gradient(benchmark, reference: bool) -> None:
    benchmark(workloads.loss_and_gradient(320, 240, reference))


@pytest.mark.parametrize("blend", [gated_blend, workloads.blend_by_torch], ids=["native", "torch"])
def test_gates_and_blend_and_gradient(benchmark, blend) -> None:
    benchmark(workloads.gated_blend(320, 240, blend))


@pytest.mark.parametrize("logits", [network_logits, network_logits_by_torch], ids=["native", "torch"])
def test_router_network_and_gradient(benchmark, logits) -> None:
    benchmark(workloads.router_network(320, 240, logits))


@pytest.mark.parametrize("n", [10_000, 50_000])
@pytest.mark.parametrize("sampler", [sample_planes, sample_planes_reference], ids=["native", "torch"])
def test_hexplane_and_gradient(benchmark, sampler, n: int) -> None:
    benchmark(workloads.hexplane(n, sampler))


@pytest.mark.parametrize("by", [pose, pose_by_torch], ids=["native", "torch"])
def test_splines_and_gradient(benchmark, by) -> None:
    benchmark(workloads.splines(10_000, by))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_adam(benchmark, fused: bool) -> None:
    benchmark(workloads.adam(10_000, fused))
