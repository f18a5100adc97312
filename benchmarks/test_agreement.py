"""What is timed side by side computes the same thing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gsplat_torch, workloads
from benchmarks.pairs import contributing, projected
from benchmarks.scenes import BenchScene, grown, random_scene
from moegs.render import backends, rasterize


@pytest.fixture(scope="module")
def scene() -> BenchScene:
    """Small, and with features."""
    plain = random_scene(600, 64, 48)
    features = torch.rand(600, 5, generator=torch.Generator().manual_seed(0))
    return BenchScene(plain.name, plain.gaussians, plain.camera, features)


def reference_image(scene: BenchScene) -> torch.Tensor:
    render = rasterize(scene.gaussians, scene.camera, features=scene.features, backend="reference")
    return torch.cat([render.color, render.features], dim=-1)


@pytest.mark.skipif(not gsplat_torch.available(), reason="gsplat is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_gsplats_functions_give_the_reference_image(scene: BenchScene) -> None:
    projection = projected(scene)
    local, pixel = contributing(projection, scene.camera.width, scene.camera.height)
    leaves = workloads.leaves_of(scene.gaussians)
    image = gsplat_torch._render(scene, leaves, scene.features, (projection.index[local], pixel))
    torch.testing.assert_close(image.detach(), reference_image(scene), atol=1e-4, rtol=0)


@pytest.mark.skipif(not backends.native_available(), reason="the native module is not built")
def test_native_gives_the_reference_image(scene: BenchScene) -> None:
    render = rasterize(scene.gaussians, scene.camera, features=scene.features, backend="native")
    image = torch.cat([render.color, render.features], dim=-1)
    torch.testing.assert_close(image, reference_image(scene), atol=1e-4, rtol=0)


def test_pairs_are_counted_by_pixel_and_depth(scene: BenchScene) -> None:
    projection = projected(scene)
    gaussian, pixel = contributing(projection, scene.camera.width, scene.camera.height)
    assert (pixel.diff() >= 0).all() and 20 < len(pixel) / (64 * 48) < 80
    depths = projection.depths[gaussian]
    assert (depths.diff()[pixel.diff() == 0] >= 0).all()


def test_grown_scenes_cover_the_same_area() -> None:
    base = random_scene(600, 64, 48)
    counts = [len(contributing(projected(s), 64, 48)[0]) for s in (base, grown(base, 6000))]
    assert 0.5 < counts[1] / counts[0] < 2.0
