"""From 3D Gaussians to ellipses in the image, in plain torch (any device, float32 or float64).

The formulas are those of EWA splatting with gsplat's clamps: the local affine approximation is evaluated no farther than
1.3 times the field of view from the optical axis, measured on each side of the principal point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moegs.gaussians import harmonics
from moegs.gaussians.container import Gaussians, covariances
from moegs.render.camera import Camera
from moegs.render.types import ALPHA_MIN, RasterInputs, RasterOptions

DET_MIN = 1e-10  # smallest determinant of a filtered image-plane covariance


@dataclass(frozen=True)
class Projected:
    """The ``m`` Gaussians that may touch the image, unsorted.

    Attributes:
        index: which of the ``n`` input Gaussians each one is, ascending.
        means2d: centres in pixels (pixel centres at +0.5).
        conics: inverse filtered covariance as (xx, xy, yy), 1/pixel².
        depths: camera z in world units.
        colors: RGB seen from the camera, >= 0.
        opacities: peak opacity including compensation.
        extents: half width and height in pixels of the box where alpha can reach 1/255.
    """

    index: Int[Tensor, "m"]
    means2d: Float[Tensor, "m 2"]
    conics: Float[Tensor, "m 3"]
    depths: Float[Tensor, "m"]
    colors: Float[Tensor, "m 3"]
    opacities: Float[Tensor, "m"]
    extents: Float[Tensor, "m 2"]


def project(inputs: RasterInputs) -> Projected:
    """Project every Gaussian with its group's options and keep those that can be seen."""
    filters, compensate, near, far = _per_gaussian(inputs)
    z = _camera_z(inputs.gaussians, inputs.camera)
    index = torch.nonzero((z > near) & (z < far)).squeeze(1)
    kept = inputs.gaussians[index]
    means_c = _to_camera(kept, inputs.camera)
    covars2d = image_covariances(kept, means_c, inputs.camera)
    conics, compensation, filtered = _filter(covars2d, filters[index])
    opacities = kept.opacities * torch.where(compensate[index], compensation, torch.ones_like(compensation))
    means2d = means_c[:, :2] / means_c[:, 2:] * _focal(inputs.camera) + inputs.camera.K[:2, 2]
    if inputs.probe is not None and not inputs.absgrad:
        means2d = means2d + inputs.probe[index]
    directions = torch.nn.functional.normalize(kept.means - inputs.camera.centre, dim=-1)
    whole = Projected(
        index, means2d, conics, means_c[:, 2], harmonics.colors(kept.sh, directions), opacities,
        _extents(opacities.detach(), filtered.detach()),
    )  # fmt: skip
    return _select(whole, _touches_image(whole, inputs.camera))


def _per_gaussian(inputs: RasterInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    means, camera = inputs.gaussians.means, inputs.camera
    groups = torch.zeros(len(means), dtype=torch.long, device=means.device) if inputs.groups is None else inputs.groups
    groups = groups.long()

    def spread(value) -> Tensor:
        return means.new_tensor([float(value(o)) for o in inputs.options])[groups]

    def near(o: RasterOptions) -> float:
        return camera.near if o.near is None else o.near

    def far(o: RasterOptions) -> float:
        return camera.far if o.far is None else o.far

    return spread(lambda o: o.eps2d), spread(lambda o: o.compensate) > 0, spread(near), spread(far)


def _camera_z(gaussians: Gaussians, camera: Camera) -> Tensor:
    return (gaussians.means @ camera.viewmat[2, :3] + camera.viewmat[2, 3]).detach()


def _to_camera(gaussians: Gaussians, camera: Camera) -> Float[Tensor, "m 3"]:
    return gaussians.means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]


def _focal(camera: Camera) -> Float[Tensor, "2"]:
    return torch.stack([camera.K[0, 0], camera.K[1, 1]])


def image_covariances(gaussians: Gaussians, means_c: Float[Tensor, "m 3"], camera: Camera) -> Float[Tensor, "m 2 2"]:
    """Covariances in the image plane before filtering, pixels squared: ``J W S W^T J^T``."""
    rotation = camera.viewmat[:3, :3]
    covars_c = rotation @ covariances(gaussians) @ rotation.T
    jacobian = _jacobian(means_c, camera)
    return jacobian @ covars_c @ jacobian.mT


def _jacobian(means_c: Float[Tensor, "m 3"], camera: Camera) -> Float[Tensor, "m 2 3"]:
    z = means_c[:, 2]
    size = means_c.new_tensor([camera.width, camera.height])
    focal, centre = _focal(camera), camera.K[:2, 2]
    margin = 0.15 * size / focal  # 0.3 times the tangent of half the field of view
    high, low = (size - centre) / focal + margin, -(centre / focal + margin)
    slope = torch.minimum(torch.maximum(means_c[:, :2] / z[:, None], low), high)
    zero = torch.zeros_like(z)
    rows = [focal[0] / z, zero, -focal[0] * slope[:, 0] / z, zero, focal[1] / z, -focal[1] * slope[:, 1] / z]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))


def _filter(covars2d: Tensor, eps2d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Low-pass filter: conics, opacity compensation, and the filtered covariance as (xx, xy, yy)."""
    xx, xy, yy = covars2d[:, 0, 0], covars2d[:, 0, 1], covars2d[:, 1, 1]
    det_raw = xx * yy - xy * xy
    xx, yy = xx + eps2d, yy + eps2d
    det = (xx * yy - xy * xy).clamp_min(DET_MIN)
    ratio = det_raw / det
    # the root has no finite slope at zero: a Gaussian flattened to a line keeps value 0 and gets no gradient
    visible = ratio > 0
    compensation = torch.where(visible, torch.where(visible, ratio, torch.ones_like(ratio)).sqrt(), 0.0)
    return torch.stack([yy / det, -xy / det, xx / det], dim=-1), compensation, torch.stack([xx, xy, yy], dim=-1)


def _extents(opacities: Tensor, filtered: Tensor) -> Float[Tensor, "m 2"]:
    reach = 2.0 * torch.log((opacities / ALPHA_MIN).clamp_min(1.0))
    return torch.sqrt(reach[:, None] * filtered[:, [0, 2]])


def _touches_image(p: Projected, camera: Camera) -> Tensor:
    low, high = p.means2d.detach() - p.extents, p.means2d.detach() + p.extents
    size = low.new_tensor([camera.width, camera.height])
    seen = (p.opacities.detach() >= ALPHA_MIN) & (p.extents > 0).all(1)
    return seen & (high > 0).all(1) & (low < size).all(1) & low.isfinite().all(1)


def _select(p: Projected, keep: Tensor) -> Projected:
    return Projected(*(getattr(p, name)[keep] for name in Projected.__dataclass_fields__))
