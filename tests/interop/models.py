"""Small models of every prior with random tensors, shaped as the originals have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from moegs import interop
from moegs.deform.embedding import Embedding
from moegs.deform.hexplane import HexPlane
from moegs.deform.interpolation import Interpolation
from moegs.deform.polynomial import Polynomial
from moegs.deform.prior import Prior
from moegs.deform.reformulation import Reformulation
from moegs.expert import Expert
from moegs.gaussians.cloud import PointCloud
from moegs.render.types import RasterOptions

STOCK = RasterOptions(near=0.2)
ORIGINALS: dict[str, tuple[Prior, RasterOptions]] = {
    "4dgaussians": (replace(HexPlane.n3v(), resolution=(4, 3, 5, 6), channels=2, width=8), STOCK),
    "e-d3dgs": (replace(Embedding.n3v(), gaussian_size=4, temporal_size=6, rows=8, coarse_rows=3, width=8), STOCK),
    "ex4dgs": (
        replace(Interpolation.n3v(), n_frames=20, trained_duration=33, dynamic=0.5),
        RasterOptions(eps2d=0.1, compensate=True, near=0.01, far=100.0),
    ),
    "spacetime": (Polynomial.n3v(), STOCK),
    "4dgs": (Reformulation.n3v(), STOCK),
}


def expert(prior: Prior, n: int = 6, seed: int = 0, options: RasterOptions = STOCK) -> Expert:
    """An expert whose every tensor but buffers is random."""
    generator = torch.Generator().manual_seed(seed)
    cloud = PointCloud(torch.randn(n, 3, generator=generator), torch.rand(n, 3, generator=generator))
    params = prior.init(cloud, generator)
    buffers = ("plane.aabb", "mlp.unit", "time.span")
    noise = {k: 0.1 * torch.randn(v.shape, generator=generator) for k, v in params.items() if k not in buffers}
    params = {k: v + noise[k] if k in noise else v for k, v in params.items()}
    params = {k: v.contiguous() for k, v in params.items()}
    return Expert(prior, params, options, decoder=prior.decoder)


def original(format: str, n: int = 6) -> Expert:
    """A model in a project's own shape."""
    prior, options = ORIGINALS[format]
    return expert(prior, n, options=options)


def run_of(format: str, folder: Path, n: int = 6) -> Path:
    """A run's folder in a project's layout."""
    interop.export(original(format, n), folder, format)
    return folder
