"""Ex4DGS's progressive way: Gaussians that drift become splines, and key frames are added as more of a clip is seen.

Pure functions over the params of :class:`moegs.deform.interpolation.Interpolation`; the training loop decides when.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.deform._fields import fields_of
from moegs.deform._keyframes import spline_params
from moegs.deform.interpolation import LINEAR, SPLINE, Interpolation
from moegs.errors import ShapeError
from moegs.gaussians.densify import Lineage
from moegs.gaussians.params import Params


def extract(
    params: Params,
    chosen: Bool[Tensor, "linear"],
    time: float | Float[Tensor, "m"],
    config: Interpolation,
    seen: float = 1.0,
) -> tuple[Params, Lineage]:
    """Turn chosen Gaussians of the linear population into splines that follow the same path.

    Args:
        params: raw parameters of an interpolation expert.
        chosen: which of the linear population, in its own order.
        time: clip-normalised time at which each chosen one (or all of them) is seen best; its window includes it.
        config: the prior, with its number of frames and its interval.
        seen: part of the clip that training has reached, in (0, 1].

    Returns:
        The new params, and for every population the row of the old params that each row comes from, -1 for new splines,
        so that an optimiser can carry its moments over.

    Raises:
        ShapeError: ``chosen`` is not a mask over the linear population.
    """
    linear = fields_of(params, LINEAR)
    spline: dict[str, Tensor] = fields_of(params, SPLINE)
    n = len(linear["means"])
    if chosen.dtype != torch.bool or tuple(chosen.shape) != (n,):
        raise ShapeError(f"chosen: expected bool [{n}], got {chosen.dtype} {list(chosen.shape)}.")
    moving = {k: v.detach()[chosen] for k, v in linear.items()}
    best = torch.as_tensor(time).to(moving["means"]).expand(len(moving["means"]))
    k = spline["keyframes"].shape[1] if spline else config.n_keyframes
    fresh = spline_params(moving, k, *_window_of(config, best, seen))
    fresh["keyframes"] = _path(moving, k, config, seen)
    spline = {name: torch.cat([spline[name], v]) if spline else v for name, v in fresh.items()}
    kept = {name: v[~chosen] for name, v in linear.items()}
    lineage = {LINEAR: torch.nonzero(~chosen)[:, 0], SPLINE: _grown(len(spline["keyframes"]), len(best), chosen.device)}
    return _assembled(params, kept, spline), lineage


def expand(params: Params, n_keyframes: int) -> Params:
    """More key frames, continued in a straight line with the mean of the last steps (four at most).

    Optimiser moments of ``keyframes`` and ``rotations`` no longer fit and start anew.
    """
    changed = {f"gaussian.{SPLINE}.{f}": fields_of(params, SPLINE)[f] for f in ("keyframes", "rotations")}
    return params | {name: _continued(value.detach(), n_keyframes) for name, value in changed.items()}


def _continued(keyframes: Float[Tensor, "n k c"], n_keyframes: int) -> Float[Tensor, "n m c"]:
    k = keyframes.shape[1]
    more = max(n_keyframes - k, 0)
    steps = max(min(k - 2, 4), 1)
    step = (keyframes[:, -1:] - keyframes[:, -1 - steps : k - steps]) / steps
    count = torch.arange(1, more + 1, device=keyframes.device, dtype=keyframes.dtype)
    return torch.cat([keyframes, keyframes[:, -1:] + count[:, None] * step], dim=1)


def _path(fields: dict[str, Tensor], k: int, config: Interpolation, seen: float) -> Float[Tensor, "n k 3"]:
    """Key frames on a drifting Gaussian's line."""
    means, displacements = fields["means"][:, None], fields["displacements"][:, None]
    j = torch.arange(k, device=means.device, dtype=means.dtype)[:, None]
    if config.exact_extraction:
        return means + displacements * ((j * config.interval - config.shift) / config.span)
    # the original resizes the two ends of the line, one interval beyond either side, to k samples
    beyond = config.interval / _active(config, seen)
    along = ((2 * j + 1) / k - 0.5).clamp(0, 1) * (1 + 2 * beyond) - beyond
    return means + displacements * along


def _window_of(config: Interpolation, best: Float[Tensor, "m"], seen: float) -> tuple[Tensor, Tensor]:
    """Centres half way from the best time to either end of what was seen."""
    centers = torch.stack([config.tau(best / 2), config.tau((seen + best) / 2)], dim=-1)
    if config.exact_extraction:
        return centers, torch.full_like(centers, math.log(max(seen * config.n_frames / config.interval, 1.0)))
    active = _active(config, seen)
    frame = best * config.n_frames
    widths = torch.stack([frame + config.pad, active - frame + config.pad], dim=-1)
    limits = (config.shift + 1) / config.interval, (config.shift + active - 1) / config.interval
    return centers.clamp(*limits), widths  # as raw logs these are wider than any clip


def _active(config: Interpolation, seen: float) -> float:
    return max(seen * config.n_frames, config.interval)


def _grown(total: int, fresh: int, device: torch.device) -> Int[Tensor, "n"]:
    rows = torch.arange(total, device=device)
    return torch.where(rows < total - fresh, rows, -1)


def _assembled(params: Params, linear: dict[str, Tensor], spline: dict[str, Tensor]) -> Params:
    shared = {k: v for k, v in params.items() if not k.startswith((f"gaussian.{LINEAR}.", f"gaussian.{SPLINE}."))}
    return (
        shared
        | {f"gaussian.{LINEAR}.{k}": v for k, v in linear.items()}
        | {f"gaussian.{SPLINE}.{k}": v for k, v in spline.items()}
    )
