"""A mixture of two small experts and views of it, for brute-force checks."""

from __future__ import annotations

from dataclasses import replace

import torch

from moegs.data import View
from moegs.deform import get
from moegs.expert import Expert
from moegs.gaussians import PointCloud
from moegs.route import Mixture, RouterConfig, VolumePixelRouter
from tests.render.scenes import camera


def expert(name: str = "polynomial", n: int = 7, seed: int = 0, dtype=torch.float64, **options) -> Expert:
    """Gaussians large enough to cover a few pixels, half of them rather opaque."""
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, 3, generator=g) * torch.tensor([2.0, 1.5, 2.0]) + torch.tensor([-1.0, -0.75, 1.0])
    prior = replace(get(name).for_clip(4), **options)
    params = prior.init(PointCloud(points, torch.rand(n, 3, generator=g), None), g)
    for key, value in params.items():
        if key.endswith("opacities"):
            params[key] = torch.rand(value.shape, generator=g) * 4 - 1
        if key.endswith("scales"):
            params[key] = torch.log(torch.rand(value.shape, generator=g) * 0.3 + 0.1)
    return Expert(prior, {k: v.to(dtype) if v.is_floating_point() else v for k, v in params.items()})


def mixture(dtype: torch.dtype = torch.float64, n: int = 7, config: RouterConfig | None = None) -> Mixture:
    """A polynomial and a key-frame expert under a router whose weights are drawn at random."""
    experts = {"a": expert("polynomial", n, 0, dtype), "b": expert("interpolation", n + 2, 1, dtype, dynamic=0.5)}
    generator = torch.Generator().manual_seed(2)
    router = VolumePixelRouter([n, n + 2], config or RouterConfig(), generator=generator)
    with torch.no_grad():
        for weights in (router.base, router.view, router.time):
            weights.copy_(torch.randn(weights.shape, generator=generator))
    return Mixture(experts, router.to(dtype))


def views(times: tuple[float, ...] = (0.25, 0.75), width: int = 14, height: int = 10) -> list[View]:
    """Grey pictures from two turned cameras."""
    image = torch.full((height, width, 3), 0.5)
    return [View(camera(width, height, tilt=0.1 * i), t, image, i, round(4 * t)) for i, t in enumerate(times)]
