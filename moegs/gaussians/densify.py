"""Adaptive density control as functions over raw parameters, for any motion prior.

Clone and split follow 3D Gaussian Splatting; a hard cap decides by gradient who may still grow. Every edit reports its
:data:`Lineage`, so that optimiser state and statistics can follow the Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.gaussians.container import Gaussians, covariances
from moegs.gaussians.params import Params, count, join, population_of, populations, take
from moegs.gaussians.quaternions import to_matrix

Lineage = dict[str, Int[Tensor, "n"]]
"""Population → row of each new Gaussian in the old population, or -1 for a fresh one."""

Move = Callable[[Params, Float[Tensor, "n 3"]], Params]
Shrink = Callable[[Params, float], Params]


@dataclass(frozen=True)
class DensifyRule:
    """When a Gaussian grows and when it dies.

    Attributes:
        grad_threshold: mean image-plane gradient (in units of half the image, as INRIA's normalised device coordinates)
            above which a Gaussian is cloned or split.
        dense_size: Gaussians whose largest scale is at most this fraction of the scene's extent are cloned, others split.
        min_opacity: fainter ones are removed.
        max_size: Gaussians larger than this fraction of the extent are removed.
        max_gaussians: hard cap on their number.
        split_factor: scales of the two halves are divided by this.
    """

    grad_threshold: float = 2e-4
    dense_size: float = 0.01
    min_opacity: float = 0.005
    max_size: float = 1.0
    max_gaussians: int = 40_000
    split_factor: float = 1.6


def field(params: Params, name: str) -> Tensor:
    """A raw per-Gaussian field of all populations, concatenated in global order."""
    return torch.cat([params[f"gaussian.{p}.{name}" if p else f"gaussian.{name}"] for p in populations(params)])


def rows(params: Params) -> Lineage:
    """The lineage of an edit that changed nothing."""
    return {p: torch.arange(n) for p, n in populations(params).items()}


def follow(values: Tensor, lineage_of_population: Int[Tensor, "n"], fill: float = 0.0) -> Tensor:
    """Carry per-Gaussian values of one population through an edit; fresh Gaussians get ``fill``."""
    old = lineage_of_population.to(values.device)
    carried = values[old.clamp_min(0)] if len(values) else values.new_zeros(len(old), *values.shape[1:])
    fresh = (old < 0).view(-1, *[1] * (values.ndim - 1))
    return torch.where(fresh, torch.full_like(carried, fill), carried)


def keep(params: Params, mask: Bool[Tensor, "n"]) -> tuple[Params, Lineage]:
    """Remove the Gaussians where the mask is False."""
    return take(params, mask), _take_rows(params, mask)


def grow(
    params: Params,
    now: Gaussians,
    score: Float[Tensor, "n"],
    rule: DensifyRule,
    extent: float,
    *,
    move: Move,
    shrink: Shrink,
    generator: torch.Generator | None = None,
) -> tuple[Params, Params, Lineage]:
    """Clone small and split large Gaussians whose gradient score exceeds the threshold.

    Args:
        params: raw parameters.
        now: the same Gaussians, deformed to one instant; splits are sampled from their shapes.
        score: mean image-plane gradient of each Gaussian, in units of half the image.
        rule: thresholds and the cap.
        extent: of the scene in world units, see :class:`moegs.data.Scene`.
        move: displaces Gaussians by world offsets (:meth:`moegs.deform.Prior.moved`).
        shrink: divides spatial scales (:meth:`moegs.deform.Prior.shrunk`).
        generator: source of randomness.

    Returns:
        The survivors, the freshly spawned Gaussians (to be joined behind them), and the lineage of the joined set.
    """
    hot = _hottest(score, rule.grad_threshold, rule.max_gaussians - count(params))
    small = sizes(now) <= rule.dense_size * extent
    splitting, cloning = hot & ~small, hot & small
    parents = take(params, splitting)
    halves = [
        shrink(move(parents, sample_offsets(now[splitting], generator)), rule.split_factor) for _ in range(2)
    ]
    spawned = join([take(params, cloning), *halves])
    survivors, lineage = keep(params, ~splitting)
    fresh = populations(spawned)
    joined = {p: torch.cat([old, torch.full((fresh[p],), -1)]) for p, old in lineage.items()}
    return survivors, spawned, joined


def _hottest(score: Tensor, threshold: float, room: int) -> Tensor:
    hot = score > threshold
    if int(hot.sum()) <= max(room, 0):
        return hot
    chosen = torch.zeros_like(hot)
    if room > 0:
        chosen[torch.sort(score, descending=True, stable=True).indices[:room]] = True
    return chosen & hot


def sizes(now: Gaussians) -> Float[Tensor, "n"]:
    """Largest standard deviation of each Gaussian in world units."""
    if now.scales is not None and now.covars is None:
        return now.scales.amax(-1)
    return covariances(now).diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(0.0).sqrt()


def sample_offsets(now: Gaussians, generator: torch.Generator | None = None) -> Float[Tensor, "n 3"]:
    """One random displacement from each Gaussian's own distribution."""
    noise = torch.randn(len(now), 3, generator=generator).to(now.means)
    if now.scales is not None and now.quats is not None and now.covars is None:
        return (to_matrix(now.quats) @ (now.scales * noise)[..., None]).squeeze(-1)
    values, vectors = torch.linalg.eigh(covariances(now))
    return (vectors @ (values.clamp_min(0.0).sqrt() * noise)[..., None]).squeeze(-1)


def healthy(
    params: Params, now: Gaussians, rule: DensifyRule, extent: float, best: Float[Tensor, "n"] | None = None
) -> Bool[Tensor, "n"]:
    """Gaussians that are opaque enough at their best, not too large, and finite.

    Args:
        params: raw parameters.
        now: the same Gaussians at one instant.
        rule: thresholds.
        extent: of the scene in world units, see :class:`moegs.data.Scene`.
        best: greatest opacity over the clip, for priors that raise it above the raw one.
    """
    raw = torch.sigmoid(field(params, "opacities"))
    opaque = (raw if best is None else torch.maximum(raw, best)) >= rule.min_opacity
    return opaque & (sizes(now) <= rule.max_size * extent) & now.means.isfinite().all(-1)


def _take_rows(params: Params, mask: Tensor) -> Lineage:
    index = {(f"gaussian.{p}.row" if p else "gaussian.row"): r for p, r in rows(params).items()}
    return {population_of(name) or "": value for name, value in take(index, mask.cpu()).items()}
