from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians import PointCloud
from moegs.render import Camera
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

    cameras: tuple[Camera, ...]

    def image(self, camera: int, frame: int) -> torch.Tensor:
        size = (self.cameras[camera].height, self.cameras[camera].width)
        return (torch.arange(size[1]) >= 16).float()[None, :, None].expand(*size, 3)


def one_colour(value: float) -> Expert:
    """Nothing in front of any camera, and a grey level behind it."""
    prior, _ = budget("small", small_scene(), "polynomial")
    params = prior.init(PointCloud(torch.tensor([[0.0, 0.0, -9.0]]), torch.zeros(1, 3)))
    return Expert(prior, params, background=(value, value, value))


@pytest.mark.parametrize("wider", [0, 20])
def test_one_expert_a_tile_is_enough_where_each_has_its_own(wider: int):
    """With cameras of one size and of two."""
    mixture = Mixture({"dark": one_colour(0.1), "bright": one_colour(0.9)}, VolumePixelRouter([1, 1]))
    first, second, *_ = small_scene().cameras
    cameras = (first, replace(second, width=second.width + wider))
    scene = replace(small_scene(), cameras=cameras, train=(), test=(0, 1), frames=Halved(cameras))
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


def test_no_frame_in_zero_is_no_choice(mixture):
    with pytest.raises(ConfigError, match="every of at least 1, got 0"):
        yardsticks(mixture, small_scene(), every=0)


def test_too_many_subsets_are_refused(mixture):
    expert = next(iter(mixture.experts.values()))
    nine = Mixture({str(i): expert for i in range(9)}, VolumePixelRouter([len(expert)] * 9))
    with pytest.raises(ConfigError, match="at most 8 experts"):
        fewest_tiles(nine, small_scene())
