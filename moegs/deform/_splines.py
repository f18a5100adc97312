"""Interpolation between key frames: which ones a time falls between, positions, rotations, opacity windows."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.gaussians.quaternions import TINY, normalize
from moegs.render.native import splines as native

EDGE = 1e-4  # the arc cosine's slope is unbounded at one; nearer than this to it, rotations are blended linearly
LOG_LIMIT = 15.0  # exp() of more overflows in its gradient; a window this wide is already constant over any clip


def locate(tau: float | Tensor, first: int, last: int) -> tuple[int | Tensor, float | Tensor]:
    """Key frame at or before ``tau`` (key-frame units), held within first...last, and the way on from it.

    A number gives numbers; a scalar tensor gives tensors, with the gradient of ``tau`` in the second.
    """
    if isinstance(tau, Tensor):
        index = tau.detach().floor().clamp(first, last).long()
        return index, tau - index
    k = min(max(math.floor(tau), first), last)
    return k, tau - k


def window(keyframes: Float[Tensor, "n k c"], start: int | Tensor, length: int) -> tuple[Float[Tensor, "n c"], ...]:
    """Consecutive key frames: a view for a whole number, a gather (that ``torch.func.vmap`` batches) for a tensor."""
    if isinstance(start, Tensor):
        index = start + torch.arange(length, device=keyframes.device)
        return keyframes[:, index].unbind(1)
    return keyframes[:, start : start + length].unbind(1)


def pose(
    keyframes: Float[Tensor, "n k 3"], rotations: Float[Tensor, "n k 4"], tau: float | Tensor, position: str = "cubic",
    shortest_arc: bool = True,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]]:  # fmt: skip
    """Means and unit quaternions at ``tau``; where it is a number and the way is the usual one, by the native kernel."""
    if position == "cubic" and shortest_arc and not isinstance(tau, Tensor) and native.usable(keyframes, rotations):
        k, d = locate(tau, 1, keyframes.shape[1] - 3)
        if 0 <= d <= 1:  # beyond the key frames the kernel's sines do not reach
            return native.pose(keyframes, rotations, native.Place(int(k) - 1, hermite(float(d)), float(d)))
    return pose_by_torch(keyframes, rotations, tau, position, shortest_arc)


def pose_by_torch(
    keyframes: Float[Tensor, "n k 3"], rotations: Float[Tensor, "n k 4"], tau: float | Tensor, position: str = "cubic",
    shortest_arc: bool = True,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]]:  # fmt: skip
    """The readable twin of :func:`pose`, for any dtype and device."""
    cubic = position == "cubic"
    place = catmull_rom if cubic else linear
    return place(keyframes, tau), slerp(rotations, tau, int(cubic), 1 + int(cubic), shortest_arc)


def hermite(d: Any) -> tuple[Any, Any, Any, Any]:
    """Weights of four key frames, a way ``d`` from the second to the third. They add up to one."""
    dd = d * d
    ddd = dd * d
    before, after = (ddd - 2 * dd + d) / 2, (ddd - dd) / 2
    rise = 3 * dd - 2 * ddd
    return -before, 1 - rise - after, rise + before, after


def catmull_rom(keyframes: Float[Tensor, "n k 3"], tau: float | Tensor) -> Float[Tensor, "n 3"]:
    """Cubic Hermite interpolation with central-difference tangents; needs a key frame before and two after.

    Its weights add up to one, so that moving all key frames by a vector moves the path by it.
    """
    k, d = locate(tau, 1, keyframes.shape[1] - 3)
    first, *others = (w * frame for w, frame in zip(hermite(d), window(keyframes, k - 1, 4), strict=True))
    return sum(others, first)


def linear(keyframes: Float[Tensor, "n k 3"], tau: float | Tensor) -> Float[Tensor, "n 3"]:
    """Straight lines between key frames."""
    k, d = locate(tau, 0, keyframes.shape[1] - 2)
    a, b = window(keyframes, k, 2)
    return a * (1 - d) + b * d


def slerp(
    rotations: Float[Tensor, "n k 4"], tau: float | Tensor, first: int, margin: int, shortest_arc: bool
) -> Float[Tensor, "n 4"]:
    """Unit quaternions turned at constant speed between key frames.

    ``first`` and ``margin`` are the key frames that :func:`catmull_rom` needs before and after, so that both pick the
    same pair. Without ``shortest_arc`` a pair of opposite signs turns the long way round, as in Ex4DGS.
    """
    k, d = locate(tau, first, rotations.shape[1] - 1 - margin)
    a, b = window(rotations, k, 2)
    per_a, per_b = _inverse_length(a), _inverse_length(b)  # factors [n, 1] cost less than normalised quaternions
    cosine = (a * b).sum(-1, keepdim=True) * per_a * per_b
    sign = torch.where((cosine < 0) & shortest_arc, -1.0, 1.0)
    angle = torch.acos((cosine * sign).clamp(EDGE - 1, 1 - EDGE))
    p, q = torch.sin((1 - d) * angle), torch.sin(d * angle)
    total = p + q
    blend = a * (p * per_a / total) + b * (q * sign * per_b / total)
    if not shortest_arc:  # opposite quaternions cancel half way
        blend = torch.where(blend.abs().sum(-1, keepdim=True) <= EDGE, a, blend)
    return normalize(blend)


def _inverse_length(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 1"]:
    """One over the length; zero, without gradient, where there is none."""
    square = quats.square().sum(-1, keepdim=True)
    return torch.where(square < TINY**2, 0.0, square.clamp_min(TINY**2).rsqrt())


def nearest_window(
    tau: float | Tensor, centers: Float[Tensor, "n 2"], widths: Float[Tensor, "n 2"]
) -> Float[Tensor, "n"]:
    """One between the two centres, and a Gaussian of the distance to the nearer centre outside: continuous."""
    low, high = _ordered(centers)
    before, after = widths.unbind(-1)
    reach = (low - tau).clamp_min(0) / before + (tau - high).clamp_min(0) / after
    return torch.exp(-reach.square())


def signed_min_window(
    tau: float | Tensor, centers: Float[Tensor, "n 2"], widths: Float[Tensor, "n 2"]
) -> Float[Tensor, "n"]:
    """As Ex4DGS computes it: the distance is always to the later centre, so opacity jumps to one at the earlier."""
    low, high = _ordered(centers)
    before, after = widths.unbind(-1)
    reach = (tau - high) / torch.where(tau > low, after, before)
    inside = (tau > low) & (tau < high)
    return torch.where(inside, torch.ones_like(reach), torch.exp(-reach.square()))


def _ordered(centers: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    one, other = centers.unbind(-1)
    return torch.minimum(one, other), torch.maximum(one, other)


def window_widths(raw: Float[Tensor, "n 2"], least: float) -> Float[Tensor, "n 2"]:
    """Widths in key-frame units of their raw logs, never under ``least``."""
    return raw.clamp(-LOG_LIMIT, LOG_LIMIT).exp() + least
