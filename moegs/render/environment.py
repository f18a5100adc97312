"""A picture of everything far away, on a sphere around the world."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

ENVIRONMENT = "environment.picture"  # what an expert's params call it
RADIUS = 60.0


def environment(
    picture: Float[Tensor, "3 rows columns"], rays: Float[Tensor, "h w 6"], radius: float = RADIUS
) -> Float[Tensor, "h w 3"]:
    """Colours that rays meet on the sphere about the world's origin, as 4DGS has them behind its Gaussians.

    Rows of the picture go from +z down to -z, columns once around from -x; there is half a pixel of black at its edges.

    Args:
        picture: latitude-longitude picture, RGB.
        rays: origin (world units) and unit direction at each pixel, see :func:`moegs.render.camera.rays`.
        radius: of the sphere (world units).

    Example:
        >>> up = torch.tensor([0.0, 0.0, 0.0, 0.6, 0.0, 0.8]).expand(1, 1, 6)
        >>> environment(torch.ones(3, 8, 8), up)
        tensor([[[1., 1., 1.]]])
    """
    origins, directions = rays[..., :3], rays[..., 3:]
    along = (origins * directions).sum(-1)
    inside = along.square() - origins.square().sum(-1) + radius**2
    x, y, z = (origins + (inside.clamp_min(0).sqrt() - along)[..., None] * directions).unbind(-1)
    place = torch.stack([torch.atan2(y, x) / math.pi, 2 * torch.acos((z / radius).clamp(-1, 1)) / math.pi - 1], dim=-1)
    found = torch.nn.functional.grid_sample(picture[None], place[None].to(picture), align_corners=False)
    return found[0].permute(1, 2, 0)
