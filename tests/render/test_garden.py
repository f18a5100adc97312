"""Native against reference on a captured scene: image and every gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from moegs.gaussians import Gaussians, harmonics
from moegs.render import Camera, rasterize
from moegs.render.backends import native_available
from tests.render.scenes import leaves
from tests.support import shared

pytestmark = pytest.mark.skipif(not native_available(), reason="the compiled kernels are not installed here")


def garden(n: int, width: int, height: int) -> tuple[Gaussians, Camera]:
    """Every k-th point as a round Gaussian of its neighbourhood's size, seen by the first camera."""
    with np.load(shared("bench/garden.npz"), allow_pickle=False) as data:
        arrays = {k: data[k] for k in data.files}
    chosen = np.linspace(0, len(arrays["means3d"]) - 1, n).astype(int)
    points = arrays["means3d"][chosen]
    spacing = cKDTree(points).query(points, k=4)[0][:, 1:].mean(1).clip(1e-4, 0.5)
    g = torch.Generator().manual_seed(0)
    sh = 0.1 * torch.randn(n, 16, 3, generator=g)
    sh[:, 0] = harmonics.from_rgb(torch.from_numpy(arrays["colors"][chosen] / 255.0).float())
    gaussians = Gaussians(
        torch.from_numpy(points).float(), torch.rand(n, generator=g) * 0.8 + 0.1, sh,
        torch.randn(n, 4, generator=g), torch.from_numpy(spacing).float()[:, None] * torch.rand(n, 3, generator=g) + 1e-4,
    )  # fmt: skip
    k = torch.from_numpy(arrays["Ks"][0]).clone()
    camera = Camera(torch.from_numpy(arrays["viewmats"][0]), k, int(arrays["width"]), int(arrays["height"]))
    return gaussians, camera.resized(width, height)


def test_image_and_gradients_agree():
    gaussians, camera = garden(4000, 100, 75)
    weights = torch.rand(75, 100, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for backend, dtype in (("reference", torch.float64), ("native", torch.float32)):
        own, tensors = leaves(gaussians.to(dtype))
        out = rasterize(own, camera.to(dtype), backend=backend)
        ((out.color * weights).sum() + 0.1 * out.depth.mean()).backward()
        results.append((out, {k: v.grad.double() for k, v in tensors.items()}))
    assert results[0][0].alpha.mean() > 0.3
    for name in ("color", "alpha"):
        reference, native = (getattr(r[0], name).double() for r in results)
        torch.testing.assert_close(native, reference, atol=1e-4, rtol=0)
    for name, grad in results[0][1].items():
        assert (results[1][1][name] - grad).norm() <= 1e-3 * grad.norm(), name
