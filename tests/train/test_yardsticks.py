from __future__ import annotations

import pytest
import torch

from moegs.expert import Expert
from moegs.route import Mixture, VolumePixelRouter
from moegs.train import budget, evaluate, expert_renderer, mixture_renderer, yardsticks
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
