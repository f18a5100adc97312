"""Neighbourhoods of Gaussians for losses that hold neighbours together, without state that pruning would break.

A graph of nearest neighbours over all Gaussians is expensive and goes stale with every densification. Instead a loss
looks at one patch at a time: the Gaussians nearest to a pseudo-randomly drawn one, and the neighbours of each within
the patch. Averaged over draws that is the loss over the whole graph, up to neighbours cut off at the patch's rim.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

GOLDEN = 2654435769  # 2**32 over the golden ratio: successive multiples spread evenly
MATRIX = 2048  # points up to which all distances at once are cheaper than a tree


def patch(points: Float[Tensor, "n 3"], size: int, draw: int) -> Int[Tensor, "m"]:
    """Indices of the Gaussians nearest to the one that a draw points at; all of them when there are no more."""
    n = len(points)
    if n <= size:
        return torch.arange(n, device=points.device)
    fixed = points.detach()
    anchor = (draw * GOLDEN % 2**32) * n >> 32
    distances = (fixed - fixed[anchor]).square().sum(-1)
    return distances.topk(size, largest=False, sorted=False).indices


def neighbours(points: Float[Tensor, "m 3"], k: int) -> tuple[Int[Tensor, "m j"], Float[Tensor, "m j"]]:
    """Each point's k nearest others (fewer when there are fewer) and their squared distances; no gradient."""
    k = min(k, len(points) - 1)
    fixed = points.detach()
    if len(points) > MATRIX:
        return _from_tree(fixed, k)
    squared = torch.cdist(fixed, fixed, compute_mode="donot_use_mm_for_euclid_dist").square()
    squared.fill_diagonal_(torch.inf)
    nearest = squared.topk(k, largest=False)
    return nearest.indices, nearest.values


def roughness(
    points: Float[Tensor, "n 3"],
    values: Float[Tensor, "n c"],
    k: int,
    size: int,
    falloff: float = 0.0,
    draw: int = 0,
) -> Float[Tensor, ""]:
    """How much the values of neighbours differ: mean of sqrt(w |v_i - v_j|^2), j neighbours of i in a patch.

    Args:
        points: where the Gaussians are; no gradient.
        values: what should vary slowly.
        k: neighbours per Gaussian.
        size: Gaussians in a patch; 0 for all.
        falloff: w = exp(-falloff d^2) with the distance d in world units; 0 measures d in multiples of the median
            distance between neighbours, which does not depend on the world's units.
        draw: number of the patch.
    """
    if len(points) < 2:
        return values.new_zeros(())
    index = patch(points, size or len(points), draw)
    nearest, squared = neighbours(points[index], k)
    unit = squared.median().clamp_min(torch.finfo(squared.dtype).tiny) if falloff == 0 else 1 / falloff
    values = values[index]
    differences = (values[:, None] - values[nearest]).square().sum(-1)
    return ((-squared / unit).exp() * differences + 1e-20).sqrt().mean()


def _from_tree(points: Float[Tensor, "m 3"], k: int) -> tuple[Int[Tensor, "m j"], Float[Tensor, "m j"]]:
    from scipy.spatial import cKDTree  # takes as long to import as all of moegs that renders

    array = points.cpu().double().numpy()
    distances, index = cKDTree(array).query(array, k=k + 1)
    return torch.from_numpy(index[:, 1:]).to(points.device), torch.from_numpy(distances[:, 1:] ** 2).to(points)
