from __future__ import annotations

import numpy as np
import pytest
import torch

from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.report import layers, mixture_sheet, to_uint8
from moegs.route import Mixture, VolumePixelRouter, render_mixture
from moegs.train import budget
from tests.train.scenes import small_scene


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    scene = small_scene()
    priors = [budget("small", scene, name)[0] for name in ("polynomial", "interpolation")]
    experts = {p.name: Expert(p, p.init(scene.cloud, torch.Generator().manual_seed(0))) for p in priors}
    return Mixture(experts, VolumePixelRouter([len(e) for e in experts.values()]))


def test_a_mixture_has_all_kinds(mixture):
    camera = small_scene().cameras[0]
    shown = layers(mixture, camera, 0.5, ("mixture", "experts", "gates", "depth"), bounds=(1.0, 4.0))
    assert set(shown) == {
        "mixture", "polynomial", "interpolation", "gates-polynomial", "gates-interpolation",
        "depth", "depth-polynomial", "depth-interpolation",
    }  # fmt: skip
    assert np.array_equal(shown["mixture"], to_uint8(render_mixture(mixture, camera, 0.5).color))
    assert all(p.shape == (20, 24, 3) and p.dtype == np.uint8 for p in shown.values())


def test_an_expert_alone_has_its_image_and_depth(mixture):
    expert, camera = mixture.experts["polynomial"], small_scene().cameras[0]
    assert set(layers(expert, camera, 0.0, ("experts", "depth"))) == {"polynomial", "depth"}
    with pytest.raises(ConfigError, match="'gates'"):
        layers(expert, camera, 0.0, ("gates",))


def test_depth_of_equal_experts_is_the_depth_of_each(mixture):
    expert = mixture.experts["polynomial"]
    twins = Mixture({"a": expert, "b": expert}, VolumePixelRouter([len(expert)] * 2))
    shown = layers(twins, small_scene().cameras[0], 0.0, ("depth",), bounds=(1.0, 4.0))
    # a pixel that a twin covers by less than the threshold of emptiness is covered by half of that in the blend
    assert (shown["depth"] == shown["depth-a"]).mean() > 0.99


def test_the_sheet_is_one_picture(mixture):
    sheet = mixture_sheet(mixture, small_scene(), 0, 1)
    assert sheet.dtype == np.uint8 and sheet.shape[1] > 4 * 24 and sheet.shape[0] > 3 * 20
