"""Scenes to time on: random clouds, and a captured garden where its file is at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from moegs.gaussians import Gaussians
from moegs.render import Camera

GARDEN = Path(__file__).resolve().parents[2] / "shared" / "bench" / "garden.npz"
SH_C0 = 0.28209479177387814


@dataclass(frozen=True)
class BenchScene:
    """Gaussians in front of a camera; ``features`` are channels beyond the three of colour."""

    name: str
    gaussians: Gaussians
    camera: Camera
    features: Tensor | None = None

    @property
    def channels(self) -> int:
        """Colour and feature channels together."""
        return 3 + (0 if self.features is None else self.features.shape[1])


def random_scene(n: int, width: int, height: int) -> BenchScene:
    """A box of Gaussians filling the view, some fifty of which contribute to a pixel."""
    generator = torch.Generator().manual_seed(n)
    camera = _camera(0.8 * width, width, height)
    depth = 2.0 + 4.0 * torch.rand(n, generator=generator)
    corner = (torch.rand(n, 2, generator=generator) - 0.5) * torch.tensor([width, height]) / (0.8 * width)
    means = torch.cat([1.1 * corner * depth[:, None], depth[:, None]], dim=1)
    size = 1.45 * depth[:, None] * (1.25 * height / width / n) ** 0.5
    scales = size * torch.exp(0.5 * torch.randn(n, 3, generator=generator))
    opacities = 0.02 + 0.25 * torch.rand(n, generator=generator)
    name = f"random {_count(n)}, {width}x{height}"
    return BenchScene(name, _with_colors(means, scales, opacities, torch.rand(n, 3, generator=generator)), camera)


def _camera(focal: float, width: int, height: int) -> Camera:
    k = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(torch.eye(4), k, width, height)


def _with_colors(means: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor) -> Gaussians:
    """Degree-3 harmonics whose first coefficient is the colour and whose others are small noise."""
    n, generator = len(means), torch.Generator().manual_seed(0)
    sh = 0.02 * torch.randn(n, 16, 3, generator=generator)
    sh[:, 0] = (colors - 0.5) / SH_C0
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1)
    return Gaussians(means=means, opacities=opacities, sh=sh, quats=quats, scales=scales)


def garden_scene(n: int, width: int, height: int, channels: int = 3) -> BenchScene | None:
    """``n`` points of the captured garden as Gaussians about as wide as they are apart; None without its file."""
    if not GARDEN.exists():
        return None
    with np.load(GARDEN) as file:
        points, colors = file["means3d"], file["colors"] / 255.0
        camera = Camera(torch.from_numpy(file["viewmats"][0]), torch.from_numpy(file["Ks"][0]), *_size(file))
    chosen = np.random.default_rng(0).permutation(len(points))[:n]
    means, scales = torch.from_numpy(points[chosen]), 0.91 * _spacing(n)[:, None].repeat(1, 3)
    generator = torch.Generator().manual_seed(1)
    scales = scales * torch.exp(0.4 * torch.randn(n, 3, generator=generator))
    opacities = 0.05 + 0.5 * torch.rand(n, generator=generator)
    gaussians = _with_colors(means, scales, opacities, torch.from_numpy(colors[chosen]).float())
    features = torch.rand(n, channels - 3, generator=generator) if channels > 3 else None
    name = f"garden {_count(n)}, {width}x{height}" + (f", C={channels}" if channels > 3 else "")
    return BenchScene(name, gaussians, camera.resized(width, height), features)


def _size(file: np.lib.npyio.NpzFile) -> tuple[int, int]:
    return int(file["width"]), int(file["height"])


@cache
def _spacing(n: int) -> Tensor:
    """Root mean square distance to the three nearest of the first ``n`` shuffled points, without the far outliers."""
    with np.load(GARDEN) as file:
        points = file["means3d"]
    points = points[np.random.default_rng(0).permutation(len(points))[:n]]
    distance = np.sqrt((cKDTree(points).query(points, k=4)[0][:, 1:] ** 2).mean(axis=1))
    return torch.from_numpy(np.minimum(distance, np.quantile(distance, 0.98))).float()


def grown(scene: BenchScene, n: int) -> BenchScene:
    """The scene with ``n`` Gaussians: copies are jittered, and shrunk so that the covered area stays the same."""
    generator = torch.Generator().manual_seed(n)
    pick = torch.randint(len(scene.gaussians), (n,), generator=generator)
    g = scene.gaussians[pick]
    shrink = (len(scene.gaussians) / n) ** 0.5
    jitter = torch.randn(n, 3, generator=generator) * g.scales
    return replace(scene, name=_count(n), gaussians=replace(g, means=g.means + jitter, scales=g.scales * shrink))


def table_scenes() -> list[BenchScene]:
    """Those of the table: small to large."""
    scenes = [random_scene(5_000, 128, 96), random_scene(10_000, 320, 240)]
    garden = [(10_000, 320, 240, 3), (50_000, 320, 240, 16), (50_000, 676, 507, 3), (112_000, 676, 507, 3)]
    return scenes + [scene for size in garden if (scene := garden_scene(*size)) is not None]


def _count(n: int) -> str:
    return f"{n / 1e6:g}M" if n >= 1_000_000 else f"{n // 1000}k" if n >= 1000 else str(n)
