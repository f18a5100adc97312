"""Random scenes for the rasteriser tests."""

from __future__ import annotations

import torch

from moegs.gaussians import Gaussians, covariances
from moegs.render import Camera


def random_gaussians(n: int, seed: int = 0, degree: int = 2, dtype: torch.dtype = torch.float32) -> Gaussians:
    """Gaussians in front of :func:`camera`, some behind it and some off to the side."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    means = torch.stack([rand(n) * 4 - 2, rand(n) * 3 - 1.5, rand(n) * 5 - 0.5], dim=-1)
    return Gaussians(
        means=means.to(dtype),
        opacities=(rand(n) * 0.95 + 0.03).to(dtype),
        sh=(torch.randn(n, (degree + 1) ** 2, 3, generator=g, dtype=torch.float64) * 0.4).to(dtype),
        quats=torch.randn(n, 4, generator=g, dtype=torch.float64).to(dtype),
        scales=(rand(n, 3) * 0.25 + 0.02).to(dtype),
    )


def camera(width: int = 40, height: int = 28, dtype: torch.dtype = torch.float32, tilt: float = 0.1) -> Camera:
    """An off-centre camera near the origin, slightly turned about y."""
    viewmat = torch.eye(4, dtype=torch.float64)
    c, s = torch.cos(torch.tensor(tilt)).item(), torch.sin(torch.tensor(tilt)).item()
    viewmat[0, 0], viewmat[0, 2], viewmat[2, 0], viewmat[2, 2] = c, s, -s, c
    viewmat[:3, 3] = torch.tensor([0.1, -0.05, 0.4])
    k = torch.tensor([[0.9 * width, 0, 0.45 * width], [0, 0.95 * width, 0.55 * height], [0, 0, 1]], dtype=torch.float64)
    return Camera(viewmat.to(dtype), k.to(dtype), width, height, near=0.2, far=100.0)


def leaves(gaussians: Gaussians) -> tuple[Gaussians, dict[str, torch.Tensor]]:
    """The same Gaussians as leaf tensors that require grad."""
    names = [n for n in ("means", "opacities", "sh", "quats", "scales", "covars") if getattr(gaussians, n) is not None]
    tensors = {n: getattr(gaussians, n).detach().clone().requires_grad_() for n in names}
    return Gaussians(**tensors, by_covar=gaussians.by_covar), tensors


def mixed_gaussians(n: int, seed: int = 0, degree: int = 2) -> Gaussians:
    """The same scene with shapes given in both ways: a run of each, then by turns."""
    turned = random_gaussians(n, seed, degree)
    by_covar = (torch.arange(n) >= n // 3) & ((torch.arange(n) < 2 * n // 3) | (torch.arange(n) % 3 == 0))
    filler = torch.tensor([1.0, 0.0, 0.0, 0.0])
    return Gaussians(
        means=turned.means,
        opacities=turned.opacities,
        sh=turned.sh,
        quats=torch.where(by_covar[:, None], filler, turned.quats),
        scales=torch.where(by_covar[:, None], 1.0, turned.scales),
        covars=torch.where(by_covar[:, None, None], covariances(turned), 0.0),
        by_covar=by_covar,
    )


def of_one_kind(gaussians: Gaussians, by_covar: bool) -> Gaussians:
    """The rows of a mixed set that are given in one way, without the filler of the other."""
    rows = gaussians[gaussians.by_covar == by_covar]
    kept = {"covars": rows.covars} if by_covar else {"quats": rows.quats, "scales": rows.scales}
    return Gaussians(rows.means, rows.opacities, rows.sh, **kept)
