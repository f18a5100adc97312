"""Room for growth: Gaussians that colour little give way to those that have to grow.

Removing only what is faint leaves many that are opaque and yet behind others, tiny or outside of every picture. Where an
expert may not get larger yet, they hold the places of those whose gradients ask for more.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moegs.expert import Expert
from moegs.gaussians import densify
from moegs.render.api import shares
from moegs.render.camera import Camera

SEEN = 0.5  # views at which a Gaussian is there: fewer do not tell what it is good for


def coloured(expert: Expert, views: Iterable[tuple[Camera, float, int]], *, backend: str = "auto") -> Float[Tensor, "n"]:
    """Pixels that each Gaussian colours in a view while it is there: ``sum_{v,u} T_i alpha_i(u) / sum_v p_i(v)``.

    The presence p is its opacity at the view's time, as a part of what it has at its best, so that what is there briefly
    is judged by its own time. Gaussians that no view shows at theirs get infinity.

    Args:
        expert: one expert.
        views: cameras, clip-normalised times, and the cameras' numbers.
        backend: rasteriser.
    """
    with torch.no_grad():
        best, now = torch.sigmoid(densify.field(expert.params, "opacities")), []
        for camera, t, index in views:
            g = expert.at(t, index)
            pixels = shares(g, camera, options=expert.options, backend=backend)
            now.append((pixels, g.opacities))
            best = torch.maximum(best, g.opacities)
        presence = torch.stack([opacities for _, opacities in now]) / best.clamp_min(1e-12)
    views_there = presence.sum(0)
    mean = torch.stack([pixels for pixels, _ in now]).sum(0) / views_there.clamp_min(SEEN)
    return torch.where(views_there < SEEN, torch.inf, mean)


def giving_way(
    colours: Float[Tensor, "n"], score: Float[Tensor, "n"], threshold: float, room: int, share: float
) -> Bool[Tensor, "n"]:
    """Who makes room: the least coloured, as many as growth lacks places for, at most a share of all.

    Args:
        colours: from :func:`coloured`.
        score: gradients that growth goes by.
        threshold: those above it are to grow.
        room: how many may be added as it is; less than none where there are too many already.
        share: largest fraction to give up.
    """
    lacking = int((score > threshold).sum()) - room
    n = max(0, min(lacking, int(share * len(colours)), int(colours.isfinite().sum())))
    n = n if n + room > 0 else 0  # nobody could take the places
    chosen = torch.zeros(len(colours), dtype=torch.bool)
    chosen[torch.sort(colours.cpu(), stable=True).indices[:n]] = True
    return chosen
