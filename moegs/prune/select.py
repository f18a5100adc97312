"""Dropping Gaussians from a mixture by score."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.params import take
from moegs.render.viewpoint import Viewpoint
from moegs.route.mixture import Mixture
from moegs.route.routers import VolumePixelRouter

if TYPE_CHECKING:
    from moegs.data import View

Score = Callable[[Mixture, "Iterable[View | Viewpoint]"], Float[Tensor, "n"]]
PER_GAUSSIAN = ("base", "view", "time")  # the router's tensors with one row a Gaussian


@dataclass(frozen=True)
class PruneReport:
    """What was dropped.

    Attributes:
        before: Gaussians of each expert.
        after: the same of those experts that are left.
        emptied: experts that lost every Gaussian and left the mixture.
        largest_dropped: the highest score among the dropped (in the last round), None if there are none.
    """

    before: dict[str, int]
    after: dict[str, int]
    emptied: tuple[str, ...]
    largest_dropped: float | None

    @property
    def dropped(self) -> int:
        """Number of Gaussians that are gone."""
        return sum(self.before.values()) - sum(self.after.values())

    def to_json(self) -> dict[str, Any]:
        """All fields and the fraction dropped."""
        return asdict(self) | {"dropped": self.dropped, "fraction": self.dropped / max(sum(self.before.values()), 1)}


def prune(
    mixture: Mixture,
    scores: Float[Tensor, "n"],
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    keep: int | None = None,
) -> tuple[Mixture, PruneReport]:
    """Drop the Gaussians with the smallest scores, over all experts together.

    The result is an ordinary mixture: experts and router keep the rows that are left. An expert that would be empty
    leaves the mixture, and the report names it.

    Args:
        mixture: what to prune; it stays as it is.
        scores: one a Gaussian, experts in order.
        ratio: fraction of all Gaussians to drop, in [0, 1).
        threshold: drop those with a lower score instead.
        keep: keep this many instead, at least one.

    Raises:
        ConfigError: not exactly one of ratio, threshold and keep is given, or nothing would be left.
        ShapeError: the scores do not fit the mixture.
    """
    _check(mixture, scores)
    mask = _kept(scores, ratio, threshold, keep)
    if not bool(mask.any()):
        raise ConfigError(f"prune: threshold {threshold} drops all {len(mask)} Gaussians; lower it.")
    return _drop(mixture, scores, mask)


def _drop(mixture: Mixture, scores: Float[Tensor, "n"], keep: Bool[Tensor, "n"]) -> tuple[Mixture, PruneReport]:
    lost = scores[~keep]
    masks = dict(zip(mixture.experts, keep.split(mixture.router.counts), strict=True))
    emptied = tuple(n for n, m in masks.items() if not bool(m.any()))
    pruned = kept_rows(mixture, {n: m for n, m in masks.items() if n not in emptied})
    before, after = ({n: len(e) for n, e in m.experts.items()} for m in (mixture, pruned))
    return pruned, PruneReport(before, after, emptied, float(lost.max()) if len(lost) else None)


def prune_in_rounds(
    mixture: Mixture,
    score: Score,
    views: Iterable[View | Viewpoint],
    *,
    ratio: float,
    rounds: int = 8,
    halfway: Callable[[Mixture], Mixture] | None = None,
) -> tuple[Mixture, PruneReport]:
    """Reach a ratio in equal steps and score afresh before each.

    A score asks what one Gaussian's absence costs while all others are there. Of two that hide the same hole both are
    dispensable, but not together: after a round the one that is left is seen to be needed.

    Args:
        mixture: what to prune; it stays as it is.
        score: a criterion, see :data:`moegs.prune.CRITERIA`.
        views: cameras and times to score on; gone through once a round.
        ratio: fraction of all Gaussians to drop in the end, in [0, 1).
        rounds: how many steps, at least one.
        halfway: what is done to the mixture when half of several rounds are over, such as a short refit; Gaussians must
            stay as many as they are.

    Raises:
        ConfigError: the ratio or the number of rounds has no meaning, or the views can be gone through only once.
    """
    if rounds < 1 or not 0.0 <= ratio < 1.0:
        raise ConfigError(f"prune: expected a ratio in [0, 1) and at least one round, got {ratio} and {rounds}.")
    if rounds > 1 and iter(views) is views:
        raise ConfigError("prune: views are gone through once a round; give a list or sample_views(), not an iterator.")
    total, pruned, report = sum(mixture.router.counts), mixture, None
    for done in range(1, rounds + 1):
        pruned, report = prune(pruned, score(pruned, views), keep=total - int(ratio * total * done / rounds))
        if halfway is not None and done == rounds // 2:
            pruned = halfway(pruned)
    after = {n: len(e) for n, e in pruned.experts.items()}
    before = {n: len(e) for n, e in mixture.experts.items()}
    emptied = tuple(n for n in before if n not in after)
    return pruned, PruneReport(before, after, emptied, report.largest_dropped if report else None)


def _check(mixture: Mixture, scores: Tensor) -> None:
    n = sum(mixture.router.counts)
    if tuple(scores.shape) != (n,):
        raise ShapeError(f"prune: expected {n} scores, one a Gaussian, got {list(scores.shape)}.")
    if not bool(torch.isfinite(scores).all()):
        raise ConfigError("prune: expected finite scores; some are not.")


def _kept(
    scores: Float[Tensor, "n"], ratio: float | None, threshold: float | None, keep: int | None
) -> Bool[Tensor, "n"]:
    if sum(given is not None for given in (ratio, threshold, keep)) != 1:
        raise ConfigError("prune: expected exactly one of ratio, threshold and keep.")
    if keep is not None:
        if not 1 <= keep <= len(scores):
            raise ConfigError(f"prune: expected to keep 1 to {len(scores)} Gaussians, got {keep}.")
        return _smallest(scores, len(scores) - keep)
    if threshold is not None:
        return scores >= threshold
    if ratio is None or not 0.0 <= ratio < 1.0:
        raise ConfigError(f"prune: expected a ratio in [0, 1), got {ratio}.")
    return _smallest(scores, int(ratio * len(scores)))


def _smallest(scores: Float[Tensor, "n"], n: int) -> Bool[Tensor, "n"]:
    """False for the n smallest; which of equals is drawn, or all that no view shows would go from the first expert."""
    mixed = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[mixed[torch.sort(scores.cpu()[mixed], stable=True).indices[:n]]] = False
    return keep


def kept_rows(mixture: Mixture, masks: dict[str, Bool[Tensor, "m"]]) -> Mixture:
    """A mixture of the experts named, in the order that they have there, with the Gaussians where their mask is True.

    Args:
        mixture: it stays as it is.
        masks: by expert's name, bool, one value a Gaussian.

    Raises:
        ConfigError: the mixture has no expert of a name.
        ShapeError: a mask is not of its expert's Gaussians.
    """
    if unknown := sorted(set(masks) - set(mixture.experts)):
        raise ConfigError(f"prune: expected some of {', '.join(mixture.experts)}, got a mask for {unknown[0]!r}.")
    for name, mask in masks.items():
        if (tuple(mask.shape), mask.dtype) != ((len(mixture.experts[name]),), torch.bool):
            found = f"{mask.dtype} of shape {list(mask.shape)}"
            raise ShapeError(f"masks[{name!r}]: expected bool of shape [{len(mixture.experts[name])}], got {found}.")
    experts = {n: replace(e, params=take(e.params, masks[n])) for n, e in mixture.experts.items() if n in masks}
    whole = torch.cat([masks.get(n, torch.zeros(len(e), dtype=torch.bool)).cpu() for n, e in mixture.experts.items()])
    chosen = [k for k, n in enumerate(mixture.experts) if n in masks]
    return Mixture(experts, _router_rows(mixture.router, whole, chosen, [len(e) for e in experts.values()]))


def _router_rows(
    router: VolumePixelRouter, keep: Bool[Tensor, "n"], chosen: list[int], counts: list[int]
) -> VolumePixelRouter:
    fresh = VolumePixelRouter(counts, router.config, generator=torch.Generator().manual_seed(0))
    state = {}
    for name, value in router.state_dict().items():
        own_network = name.startswith("layers.") and not router.config.shared
        if name in PER_GAUSSIAN and router.config.kind != "pixel":
            value = value[keep.to(value.device)]
        state[name] = (value[chosen] if own_network else value).clone()
    fresh.load_state_dict(state)
    return fresh.to(router.base)
