"""Drawing only some tiles: equal to the whole image there, background elsewhere, on every backend."""

from __future__ import annotations

import pytest
import torch

from moegs.errors import ShapeError
from moegs.render import rasterize
from moegs.render.backends import native_available
from tests.render.scenes import camera, leaves, random_gaussians

BACKENDS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not native_available(), reason="no kernels"))]


def chosen_tiles() -> torch.Tensor:
    return torch.tensor([[[1, 0, 1], [0, 1, 1]], [[0, 0, 0], [1, 0, 0]]], dtype=torch.bool)


def pixels(tiles: torch.Tensor) -> torch.Tensor:
    return tiles.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :28, :40]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tags", [torch.arange(60) % 2, torch.arange(60) // 30], ids=["mixed up", "together"])
def test_chosen_tiles_are_as_in_the_whole_image(backend: str, tags: torch.Tensor):
    gaussians = random_gaussians(60)
    background = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    whole = rasterize(gaussians, camera(), groups=tags, background=background, backend=backend)
    part = rasterize(gaussians, camera(), groups=tags, background=background, tiles=chosen_tiles(), backend=backend)
    shown = pixels(chosen_tiles())
    for name in ("color", "depth", "alpha"):
        assert torch.equal(getattr(part, name)[shown], getattr(whole, name)[shown])
    assert (part.alpha[~shown] == 0).all()
    assert torch.equal(part.color[1][~shown[1]], background[1].expand(int((~shown[1]).sum()), 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_come_from_the_chosen_tiles_alone(backend: str):
    tiles, grads = chosen_tiles()[0], []
    for use_tiles in (True, False):
        gaussians, tensors = leaves(random_gaussians(60))
        out = rasterize(gaussians, camera(), tiles=tiles if use_tiles else None, backend=backend)
        (out.color.square() * pixels(tiles[None])[0][..., None]).sum().backward()
        grads.append({k: v.grad for k, v in tensors.items()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


def test_a_mask_of_another_grid_is_refused():
    with pytest.raises(ShapeError, match="tiles: expected bool"):
        rasterize(random_gaussians(3), camera(), tiles=torch.ones(3, 3, dtype=torch.bool))
