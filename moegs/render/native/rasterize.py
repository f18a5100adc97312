"""Rasterisation and projection on the CPU: autograd around the compiled kernels.

The whole pipeline, from world-space Gaussians to images, is one autograd function: projection, spherical harmonics, depth
sort, tile lists and compositing, with gradients to all of it. The readable twin is :mod:`moegs.render.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from moegs.errors import BackendError, ShapeError
from moegs.gaussians.container import Gaussians
from moegs.render._finite import NAMES, complain
from moegs.render.camera import Camera, check_camera
from moegs.render.native import library, threads
from moegs.render.seen import as_seen
from moegs.render.types import RasterInputs, RasterOptions, RasterOutputs

_MAX_ABSGRAD_CHANNELS = 16  # of one walk over a tile; absolute values do not add up over several


class _Inputs(NamedTuple):
    """Tensors that the kernels read, contiguous float32 on the CPU; gradients come back in this order."""

    means: Tensor
    quats: Tensor | None
    scales: Tensor | None
    covars: Tensor | None
    opacities: Tensor
    sh: Tensor
    features: Tensor | None
    probe: Tensor | None
    viewmat: Tensor
    background: Tensor


@dataclass(frozen=True)
class _Frame:
    """What a call needs besides tensors that may have gradients."""

    K: Tensor
    width: int
    height: int
    options: list[tuple[float, float, float, float]]  # eps2d, compensate, near, far
    by_covar: UInt8[Tensor, "n"] | None
    groups: Int[Tensor, "n"] | None
    tiles: UInt8[Tensor, "g rows columns"] | None
    absgrad: bool
    keep: bool  # what backward needs
    threads: int


def rasterize_native(inputs: RasterInputs) -> RasterOutputs:
    """Backend function: all groups in one call.

    Groups whose rows lie together, as those of experts stacked in order, are drawn one after the other, which finds what
    they write still in the cache; groups that are mixed up share one projection, one sort and one pass, which is slower.
    Computes in float32 whatever the dtype of the inputs; images and gradients come back in that dtype. The result does
    not depend on the number of threads, nor, for a group, on which other groups are drawn with it.

    Raises:
        BackendError: the kernels are not installed, a tensor is not on the CPU, ``camera.K`` requires grad, the
            Gaussians cover more tiles than can be held, or ``absgrad`` is asked for more than 12 features.
        ShapeError: an input holds a value that is not finite; the message says where.
    """
    library().rouse(threads())  # helpers wake while the call is prepared
    tensors = _tensors(inputs)
    frame = _frame(inputs, tensors)
    _check_supported(inputs, tensors)
    color, depth, alpha, features, radii = _Rasterize.apply(frame, *tensors)
    out = RasterOutputs(color, depth, alpha, features, radii)
    dtype = inputs.gaussians.means.dtype
    return out if dtype == torch.float32 else replace(out, **{k: v.to(dtype) for k, v in vars(out).items() if v is not None})


class Projection(NamedTuple):
    """Gaussians in the image; rows of those that are not drawn are zero.

    Attributes:
        means2d: centres in pixels (pixel centres at +0.5).
        conics: inverse filtered covariance as (xx, xy, yy), 1/pixel².
        depths: camera z in world units.
        colors: RGB seen from the camera, >= 0.
        opacities: peak opacity including compensation.
        radii: half width and height in pixels of the box where alpha can reach 1/255; 0 where not drawn. No gradient.
    """

    means2d: Float[Tensor, "n 2"]
    conics: Float[Tensor, "n 3"]
    depths: Float[Tensor, "n"]
    colors: Float[Tensor, "n 3"]
    opacities: Float[Tensor, "n"]
    radii: Float[Tensor, "n 2"]


def project_native(gaussians: Gaussians, camera: Camera, options: RasterOptions = RasterOptions()) -> Projection:
    """Projection and spherical harmonics on their own, differentiable in the Gaussians and the camera pose.

    Raises:
        BackendError: the kernels are not installed or a tensor is not on the CPU.
        ShapeError: an input holds a value that is not finite.
    """
    library()
    background = gaussians.means.new_zeros(1, 3)
    seen = as_seen(gaussians, camera.like(gaussians.means), (options,), None)
    inputs = RasterInputs(gaussians=seen, camera=camera, options=(options,), background=background)
    tensors = _tensors(inputs)
    _check_supported(inputs, tensors)
    return Projection(*(x.to(gaussians.means.dtype) for x in _Project.apply(_frame(inputs, tensors), *tensors)))


def _tensors(inputs: RasterInputs) -> _Inputs:
    g = inputs.gaussians
    given: Any = _Inputs(
        g.means, g.quats, g.scales, g.covars, g.opacities, g.sh,
        inputs.features, inputs.probe, inputs.camera.viewmat, inputs.background,
    )  # fmt: skip
    return _Inputs._make(map(_plain, _Inputs._fields, given))


def _plain(name: str, value: Tensor | None) -> Tensor | None:
    if value is None:
        return None
    if value.device.type != "cpu":
        raise BackendError(
            f"native: expected {name} on the CPU, got it on {value.device}; move the tensors or use another backend."
        )
    plain = value.dtype == torch.float32 and value.is_contiguous()
    return value if plain else value.to(torch.float32).contiguous()


def _frame(inputs: RasterInputs, tensors: _Inputs) -> _Frame:
    camera = inputs.camera
    options = [
        (
            o.eps2d,
            float(o.compensate),
            camera.near if o.near is None else o.near,
            camera.far if o.far is None else o.far,
        )
        for o in inputs.options
    ]
    by_covar = _whole("by_covar", inputs.gaussians.by_covar, torch.uint8)
    groups = _whole("groups", inputs.groups, torch.int32)
    K = camera.K.detach()
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    tiles = None if inputs.tiles is None else inputs.tiles.cpu().to(torch.uint8).contiguous()
    return _Frame(K, camera.width, camera.height, options, by_covar, groups, tiles, inputs.absgrad, keep, threads())


def _whole(name: str, value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Tags or a mask as the kernels read them."""
    if value is not None and value.device.type != "cpu":
        raise BackendError(f"native: expected {name} on the CPU, got it on {value.device}.")
    return None if value is None else value.to(dtype).contiguous()


def _check_supported(inputs: RasterInputs, tensors: _Inputs) -> None:
    if inputs.camera.K.device.type != "cpu":
        raise BackendError(f"native: expected camera.K on the CPU, got it on {inputs.camera.K.device}.")
    if inputs.camera.K.requires_grad and torch.is_grad_enabled():
        raise BackendError(
            "native: camera.K requires grad, but these kernels have no gradient for intrinsics; use backend='reference'."
        )
    channels = 4 + (0 if tensors.features is None else tensors.features.shape[1])
    if inputs.absgrad and inputs.probe is not None and channels > _MAX_ABSGRAD_CHANNELS:
        raise BackendError(
            f"native: absgrad works with at most {_MAX_ABSGRAD_CHANNELS - 4} features, got {channels - 4}; "
            "use backend='reference' or absgrad=False."
        )


def _camera_numbers(frame: _Frame, viewmat: Tensor) -> list[float]:
    """Rotation (9), translation (3), camera centre (3), fx, fy, cx, cy."""
    v, k = viewmat.tolist(), frame.K.tolist()
    numbers = [*v[0][:3], *v[1][:3], *v[2][:3], v[0][3], v[1][3], v[2][3]]
    numbers += [-sum(v[j][i] * v[j][3] for j in range(3)) for i in range(3)]
    numbers += [k[0][0], k[1][1], k[0][2], k[1][2]]
    check_camera(v, k)
    return numbers


def _array(tensor: Tensor | None) -> Any:
    """The same memory as an array, which the kernels' binding opens faster than a tensor."""
    return None if tensor is None else tensor.detach().numpy()


def _call(frame: _Frame, x: _Inputs) -> Any:
    try:
        return library().call(
            means=_array(x.means), opacities=_array(x.opacities), sh=_array(x.sh), quats=_array(x.quats),
            scales=_array(x.scales), covars=_array(x.covars), by_covar=_array(frame.by_covar), features=_array(x.features),
            groups=_array(frame.groups), tiles=_array(frame.tiles), background=_array(x.background), options=frame.options,
            camera=_camera_numbers(frame, x.viewmat), width=frame.width, height=frame.height,
        )  # fmt: skip
    except ValueError as error:
        raise ShapeError(f"native: {error}.") from None


def _complain(x: _Inputs) -> None:
    """Say which input is not finite, and where first."""
    complain({name: getattr(x, name) for name in NAMES})
    raise ShapeError("native: an input is not finite.")


def _empty_like(wanted: Sequence[bool], x: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [torch.empty_like(t) if w and t is not None else None for w, t in zip(wanted, x, strict=True)]


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frame: _Frame, *tensors: Any) -> tuple[Tensor | None, ...]:
        x = _Inputs(*tensors)
        size = (frame.height, frame.width) if frame.groups is None else (len(frame.options), frame.height, frame.width)
        color, depth, alpha = (torch.empty(*size, *c) for c in ((3,), (), ()))
        features = None if x.features is None else torch.empty(*size, x.features.shape[1])
        radii = torch.empty(len(x.means), 2)
        call = _call(frame, x)
        images = [_array(i) for i in (color, depth, alpha, features, radii)]
        try:
            trace = library().forward(call, *images, frame.keep, frame.threads)
        except RuntimeError as error:
            raise BackendError(f"native: {error}.") from None
        if not trace.finite:
            _complain(x)
        ctx.save_for_backward(*tensors, color, depth, alpha, features, radii)
        ctx.frame, ctx.call, ctx.trace, ctx.images = frame, call, trace, images
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return color, depth, alpha, features, radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in grads[:4]):
            return (None,) * (1 + len(_Inputs._fields))
        library().rouse(ctx.frame.threads)
        saved = ctx.saved_tensors  # complains if one was changed since; the kernels read what ctx.call and ctx.images hold
        wanted = _empty_like(ctx.needs_input_grad[1:], saved[: len(_Inputs._fields)])
        given = [None if g is None else _array(g.contiguous()) for g in grads[:4]]
        arrays = [_array(w) for w in wanted]
        *images, radii = ctx.images
        library().backward(ctx.call, ctx.trace, radii, images, given, arrays, ctx.frame.absgrad, ctx.frame.threads)
        return None, *wanted


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frame: _Frame, *tensors: Any) -> tuple[Tensor, ...]:
        x = _Inputs(*tensors)
        n = len(x.means)
        out = [
            torch.empty(n, 2),
            torch.empty(n, 3),
            torch.empty(n),
            torch.empty(n, 3),
            torch.empty(n),
            torch.empty(n, 2),
        ]
        if not library().project(_call(frame, x), [_array(o) for o in out], frame.threads):
            _complain(x)
        ctx.save_for_backward(*tensors)
        ctx.frame = frame
        ctx.mark_non_differentiable(out[-1])
        ctx.set_materialize_grads(False)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x = _Inputs(*ctx.saved_tensors)
        wanted = _empty_like(ctx.needs_input_grad[1:], x)
        given = [None if g is None else _array(g.contiguous()) for g in grads[:5]]
        library().unproject(_call(ctx.frame, x), given, [_array(w) for w in wanted], ctx.frame.threads)
        return None, *wanted
