"""What a camera is shown of Gaussians whose original project draws them by other rules than the geometry's.

Both rules are of 4DGS (Yang et al., ICLR 2024) and only change colours and footprints, never places: so they are applied
before any backend sees the Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from moegs.gaussians import harmonics
from moegs.gaussians.container import Gaussians, covariances
from moegs.render.camera import Camera
from moegs.render.types import FOOTPRINTS, RasterOptions

_HALF = math.tan(-0.5)  # of the field of view -1 rad, which 4DGS notes for cameras that come with focal lengths
_SLOPE = 1.3 * _HALF  # its clamp of x/z and y/z has its ends swapped then, and gives this for every Gaussian


def as_seen(
    gaussians: Gaussians, camera: Camera, options: Sequence[RasterOptions], groups: Int[Tensor, "n"] | None
) -> Gaussians:
    """Gaussians that a rasteriser without such rules draws as these are to be drawn."""
    gaussians = with_colors(gaussians, camera)
    bent = [o.footprint != FOOTPRINTS[0] for o in options]
    if not any(bent):
        return gaussians
    rows = torch.tensor(bent, device=gaussians.means.device)
    return _flattened(gaussians, camera, rows.expand(len(gaussians)) if groups is None else rows[groups.long()])


def with_colors(gaussians: Gaussians, camera: Camera) -> Gaussians:
    """The same with colours for this camera, where they are looked up at ``anchors`` rather than at the means."""
    if gaussians.anchors is None:
        return gaussians
    directions = torch.nn.functional.normalize(gaussians.anchors - camera.centre.to(gaussians.means), dim=-1)
    seen = harmonics.evaluate(gaussians.sh, directions) / harmonics.C0
    return replace(gaussians, sh=seen[:, None], anchors=None)


def _flattened(gaussians: Gaussians, camera: Camera, rows: Tensor) -> Gaussians:
    """Covariances whose true projection is what 4DGS projects the given ones to.

    Its Jacobian ``J' = F'/z [1 0 s; 0 1 s]``, with the fixed focal lengths ``F'`` and slope ``-s``, is the true one times a
    matrix that has no third row and is the same for all Gaussians.
    """
    rotation, K = camera.viewmat[:3, :3].to(gaussians.means), camera.K.to(gaussians.means)
    whole = bool(rows.all())
    across = camera.width / (2 * _HALF) / K[0, 0], camera.height / (2 * _HALF) / K[1, 1]
    zero = K.new_zeros(())
    bend = torch.stack([across[0], zero, -_SLOPE * across[0], zero, across[1], -_SLOPE * across[1], zero, zero, zero])
    change = rotation.T @ bend.unflatten(0, (3, 3)) @ rotation
    flat = change @ covariances(gaussians if whole else gaussians[rows]) @ change.T
    if whole:
        return replace(gaussians, quats=None, scales=None, covars=flat, by_covar=None)
    own = gaussians.means.new_zeros(len(gaussians), 3, 3) if gaussians.covars is None else gaussians.covars
    covars = own.index_put((rows,), flat)
    if gaussians.quats is None:
        return replace(gaussians, covars=covars)
    return replace(gaussians, covars=covars, by_covar=rows if gaussians.by_covar is None else rows | gaussians.by_covar)
