from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians import PointCloud
from moegs.route import Mixture, VolumePixelRouter
from moegs.train import budget, evaluate, expert_renderer, fewest_tiles, mixture_renderer, yardsticks
from tests.train.scenes import small_scene


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    """Two untrained experts: one with the cloud's colours, one all grey."""
    scene = small_scene()
    prior, _ = budget("small", scene, "polynomial")
    params = prior.init(scene.cloud)
    grey = params | {"gaussian.sh_dc": torch.zeros_like(params["gaussian.sh_dc"])}
    experts = {"colour": Expert(prior, params), "grey": Expert(prior, grey)}
    return Mixture(experts, VolumePixelRouter([len(e) for e in experts.values()]))


def test_the_oracle_is_above_everyone(mixture):
    scene = small_scene()
    found = yardsticks(mixture, scene)
    scores = [evaluate(expert_renderer(e), scene, timed=1).mean.psnr for e in mixture.experts.values()]
    assert found["per-pixel oracle"].psnr > max(scores)


def test_the_average_is_a_mixture_with_equal_gates(mixture):
    found = yardsticks(mixture, small_scene(), cameras=(1,), every=2)
    with torch.no_grad():
        for layer in mixture.router.layers:
            layer.zero_()
    equal = evaluate(mixture_renderer(mixture), small_scene(), cameras=(1,), every=2, timed=1).mean
    assert found["uniform average"].psnr == pytest.approx(equal.psnr, abs=1e-4)


@dataclass(frozen=True)
class Halved:
    """Photographs that are dark up to column 16, where the second tile begins, and bright from there on."""

    def image(self, camera: int, frame: int) -> torch.Tensor:
        return (torch.arange(24) >= 16).float()[None, :, None].expand(20, 24, 3)


def one_colour(value: float) -> Expert:
    """Nothing in front of any camera, and a grey level behind it."""
    prior, _ = budget("small", small_scene(), "polynomial")
    params = prior.init(PointCloud(torch.tensor([[0.0, 0.0, -9.0]]), torch.zeros(1, 3)))
    return Expert(prior, params, background=(value, value, value))


def test_one_expert_a_tile_is_enough_where_each_has_its_own():
    mixture = Mixture({"dark": one_colour(0.1), "bright": one_colour(0.9)}, VolumePixelRouter([1, 1]))
    scene = replace(small_scene(), frames=Halved())
    found = fewest_tiles(mixture, scene, 0.0)
    assert found["tiles"] == pytest.approx(0.5)
    assert found["psnr"] == pytest.approx(20.0, abs=0.01)
    assert evaluate(mixture_renderer(mixture), scene, timed=1).mean.psnr < 8


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 3))
def test_fewer_tiles_cost_no_more_than_they_may(mixture, loss: float):
    scene = small_scene()
    whole = evaluate(mixture_renderer(mixture), scene, timed=1).mean.psnr
    found = fewest_tiles(mixture, scene, loss)
    assert 0.5 <= found["tiles"] <= 1
    assert found["psnr"] >= whole - loss - 1e-3


def test_cameras_of_two_sizes_are_counted_together(mixture):
    scene = small_scene()
    cameras = [replace(c, width=c.width + 20 * (i == 1)) for i, c in enumerate(scene.cameras)]
    photographs = {i: scene.image(i, 0).new_zeros(c.height, c.width, 3) + 0.5 for i, c in enumerate(cameras)}

    @dataclass(frozen=True)
    class Grey:
        def image(self, camera: int, frame: int) -> torch.Tensor:
            return photographs[camera]

    wide = replace(scene, cameras=tuple(cameras), frames=Grey())
    alone = [fewest_tiles(mixture, wide, 0.0, (i,))["psnr"] for i in (0, 1)]
    both = fewest_tiles(mixture, wide, 0.0, (0, 1))
    assert both["psnr"] == pytest.approx(sum(alone) / 2, abs=0.05)
    assert 0.5 <= both["tiles"] <= 1


def test_no_frame_in_zero_is_no_choice(mixture):
    with pytest.raises(ConfigError, match="every of at least 1, got 0"):
        yardsticks(mixture, small_scene(), every=0)


def test_too_many_subsets_are_refused(mixture):
    expert = next(iter(mixture.experts.values()))
    nine = Mixture({str(i): expert for i in range(9)}, VolumePixelRouter([len(expert)] * 9))
    with pytest.raises(ConfigError, match="at most 8 experts"):
        fewest_tiles(nine, small_scene())
