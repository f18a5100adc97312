"""The CUDA backend: gsplat's fused kernels, called by keyword from this one module.

Groups go through in a single pass: Gaussians are projected once, their group is given as the image id of gsplat's packed
intersection stage, and one rasteriser call fills all images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moegs.errors import BackendError
from moegs.gaussians import quaternions
from moegs.gaussians.container import Gaussians
from moegs.render.types import TILE, RasterInputs, RasterOptions, RasterOutputs


@dataclass(frozen=True)
class _Packed:
    """Gaussians that passed gsplat's culling, flattened: one row each."""

    index: Tensor
    radii: Tensor
    means2d: Tensor
    depths: Tensor
    conics: Tensor
    opacities: Tensor


def rasterize_gsplat(inputs: RasterInputs) -> RasterOutputs:
    """Backend function for tensors on a CUDA device.

    Raises:
        BackendError: gsplat is not installed, or the tensors are not float32 on CUDA.
    """
    kernels = _import_kernels(inputs)
    packed = _project(kernels, inputs)
    means2d = packed.means2d
    if inputs.probe is not None:
        means2d = _ProbeImagePosition.apply(means2d, inputs.probe, packed.index, inputs.absgrad)
    values = _values(kernels, inputs, packed)
    image, alpha = _composite(kernels, inputs, packed, means2d, values)
    radii = inputs.gaussians.means.new_zeros(len(inputs.gaussians), 2)
    radii[packed.index] = packed.radii.to(radii.dtype)
    background = inputs.background[:, None, None, :]
    if inputs.groups is None:
        image, alpha, background = image.squeeze(0), alpha.squeeze(0), background.squeeze(0)
    return RasterOutputs(
        color=image[..., :3] + (1 - alpha)[..., None] * background,
        depth=image[..., 3],
        alpha=alpha,
        features=None if inputs.features is None else image[..., 4:],
        radii=radii,
    )


def _import_kernels(inputs: RasterInputs):
    means = inputs.gaussians.means
    if means.device.type != "cuda" or means.dtype != torch.float32:
        raise BackendError(
            f"backend 'gsplat': expected float32 on CUDA, got {means.dtype} on {means.device}; "
            "move the tensors or use backend='native' or 'reference'."
        )
    try:
        import gsplat
    except ImportError as error:
        raise BackendError(f"backend 'gsplat': {error}; install it with pip install 'moegs[gpu]'.") from None
    return gsplat


def _project(kernels, inputs: RasterInputs) -> _Packed:
    """Project, once for every distinct set of raster options and every way in which shapes are given.

    Only sets that have Gaussians: the kernels divide by their number.
    """
    gaussians = inputs.gaussians
    kinds = (False, True) if gaussians.by_covar is not None else (gaussians.covars is not None,)
    parts = []
    for options in dict.fromkeys(inputs.options):
        for by_covar in kinds:
            chosen = torch.nonzero(_with_options(inputs, options) & _of_kind(gaussians, by_covar)).squeeze(1)
            if len(chosen):
                parts.append(_project_some(kernels, inputs, chosen, options, by_covar))
    if not parts:
        return _nobody(gaussians.means)
    if len(parts) == 1:
        return parts[0]
    return _Packed(*(torch.cat([getattr(p, f) for p in parts]) for f in _Packed.__dataclass_fields__))


def _nobody(like: Tensor) -> _Packed:
    whole = torch.zeros(0, dtype=torch.int64, device=like.device)
    return _Packed(whole, whole.new_zeros(0, 2).int(), like[:, :2], like[:, 2], like, like[:, 0])


def _with_options(inputs: RasterInputs, options: RasterOptions) -> Tensor:
    if inputs.groups is None:
        return torch.ones(len(inputs.gaussians), dtype=torch.bool, device=inputs.gaussians.means.device)
    same = torch.tensor([o == options for o in inputs.options], device=inputs.groups.device)
    return same[inputs.groups.long()]


def _of_kind(gaussians: Gaussians, by_covar: bool) -> Tensor:
    if gaussians.by_covar is None:
        return torch.ones(len(gaussians), dtype=torch.bool, device=gaussians.means.device)
    return gaussians.by_covar == by_covar


def _project_some(
    kernels, inputs: RasterInputs, chosen: Tensor, options: RasterOptions, by_covar: bool
) -> _Packed:  # fmt: skip
    gaussians, camera = inputs.gaussians[chosen], inputs.camera
    _, _, index, radii, means2d, depths, conics, compensations = kernels.fully_fused_projection(
        means=gaussians.means,
        covars=_upper_triangle(gaussians) if by_covar else None,
        quats=None if gaussians.quats is None or by_covar else quaternions.normalize(gaussians.quats),  # not 0/0
        scales=None if by_covar else gaussians.scales,
        opacities=gaussians.opacities.detach(),  # the faint reach less far, and who cannot be seen at all is left out
        viewmats=camera.viewmat[None],
        Ks=camera.K[None],
        width=camera.width,
        height=camera.height,
        eps2d=options.eps2d,
        near_plane=camera.near if options.near is None else options.near,
        far_plane=camera.far if options.far is None else options.far,
        packed=True,
        calc_compensations=options.compensate,
    )
    opacities = gaussians.opacities[index.long()]
    opacities = opacities if compensations is None else opacities * compensations
    return _Packed(chosen[index.long()], radii, means2d, depths, conics, opacities)


def _upper_triangle(gaussians: Gaussians) -> Tensor | None:
    if gaussians.covars is None:
        return None
    return gaussians.covars.flatten(1)[:, [0, 1, 2, 4, 5, 8]]


def _values(kernels, inputs: RasterInputs, packed: _Packed) -> Tensor:
    kept = inputs.gaussians[packed.index]
    directions = kept.means - inputs.camera.centre
    colors = kernels.spherical_harmonics(degrees_to_use=kept.sh_degree, dirs=directions, coeffs=kept.sh)
    channels = [(colors + 0.5).clamp_min(0.0), packed.depths[:, None]]
    if inputs.features is not None:
        channels.append(inputs.features[packed.index])
    return torch.cat(channels, dim=-1)


def _composite(kernels, inputs: RasterInputs, packed: _Packed, means2d: Tensor, values: Tensor):
    camera, n_groups = inputs.camera, inputs.n_groups
    tiles_x, tiles_y = -(-camera.width // TILE), -(-camera.height // TILE)
    image_ids = _image_ids(inputs, packed)
    _, isect_ids, flatten_ids = kernels.isect_tiles(
        means2d=means2d.detach(),
        radii=packed.radii,
        depths=packed.depths.detach(),
        tile_size=TILE,
        tile_width=tiles_x,
        tile_height=tiles_y,
        packed=True,
        n_images=n_groups,
        image_ids=image_ids,
        gaussian_ids=torch.arange(len(image_ids), device=image_ids.device, dtype=image_ids.dtype),
    )
    offsets = kernels.isect_offset_encode(
        isect_ids=isect_ids, n_images=n_groups, tile_width=tiles_x, tile_height=tiles_y
    )
    colors, alphas = kernels.rasterize_to_pixels(
        means2d=means2d,
        conics=packed.conics,
        colors=values,
        opacities=packed.opacities,
        image_width=camera.width,
        image_height=camera.height,
        tile_size=TILE,
        isect_offsets=offsets.reshape(n_groups, tiles_y, tiles_x),
        flatten_ids=flatten_ids,
        masks=inputs.tiles,
        packed=True,
        absgrad=inputs.absgrad,
    )
    size = (n_groups, camera.height, camera.width)
    return colors.reshape(*size, -1), _where_drawn(alphas.reshape(size), inputs.tiles)


def _where_drawn(alphas: Tensor, tiles: Tensor | None) -> Tensor:
    """Alphas with zeros in the tiles that were left out: gsplat does not write there what it allocated."""
    if tiles is None:
        return alphas
    drawn = tiles.repeat_interleave(TILE, dim=1).repeat_interleave(TILE, dim=2)
    return torch.where(drawn[:, : alphas.shape[1], : alphas.shape[2]], alphas, 0.0)


def _image_ids(inputs: RasterInputs, packed: _Packed) -> Tensor:
    if inputs.groups is None:
        return torch.zeros_like(packed.index)
    return inputs.groups[packed.index].long()  # the kernels read 64 bits


class _ProbeImagePosition(torch.autograd.Function):
    """Identity on image positions; its backward hands their (absolute) gradient to the probe."""

    @staticmethod
    def forward(ctx, means2d: Tensor, probe: Tensor, index: Tensor, absolute: bool) -> Tensor:
        ctx.index, ctx.n, ctx.absolute = index, probe.shape[0], absolute
        moved = means2d.clone()
        ctx.moved = moved  # gsplat's backward writes the absolute gradient on this very tensor as `.absgrad`
        return moved

    @staticmethod
    def backward(ctx, grad: Tensor):
        magnitude = getattr(ctx.moved, "absgrad", None) if ctx.absolute else grad
        if magnitude is None:
            raise BackendError("backend 'gsplat': this version does not report absolute gradients; use absgrad=False.")
        ctx.moved = None  # it holds this node: let go of the cycle
        probe = grad.new_zeros(ctx.n, 2)
        probe[ctx.index] = magnitude
        return grad, probe, None, None
