"""What the tables vary, and what they keep fixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from moegs import deform
from moegs.errors import ConfigError
from moegs.prune import CRITERIA
from moegs.train import BUDGETS
from moegs.train._checks import at_least_one, at_least_zero

PRIORS = ("interpolation", "polynomial", "hexplane", "embedding", "reformulation")
REPEAT = 100  # distance between the seeds of experts with the same prior, so that runs with other seeds share none
MIXED = 3


@dataclass(frozen=True)
class Plan:
    """Sizes of everything that the tables compare.

    Attributes:
        budget: ``"small"``, ``"medium"`` or ``"full"``.
        experts: names of experts in the order in which mixtures take them; ``polynomial-2`` is a second one.
        steps: at most so many steps for anything that is trained, for a quick look.
        mixed: how many experts are in the mixture of the tables that do not vary it, at least two; three of them if None,
            or both where there are only two.
        every: score each ``every``-th frame.
        timed: frames to time; models of the same cell take turns, cells are timed when they are measured.
        ratios: fractions of Gaussians to prune, in [0, 1).
        criteria: what to rank Gaussians by, of :data:`moegs.prune.CRITERIA`.
        rounds: steps in which a ratio is reached.
        scored: training views that Gaussians are ranked on.
        refit: times the steps in which experts and router learned on together, for a pruned mixture to do so again.
        fused: times the same steps, for the mixture fused into one model to learn on.
        shares: of the experts' steps, in (0, 1].
        distilled: share of an expert's steps that a student is taught for, in (0, 1].
        min_gates: gates below which an expert is left out, in [0, 1); those that a gate always reaches are not measured.
        bearable: loss in dB for which the fewest tiles are told, where so few experts are mixed that it can be found.
        left_out: cameras that stacking keeps from the experts, at least one.

    Raises:
        ConfigError: a value has no meaning, or stands twice in a list; the message names the field.
    """

    budget: str = "small"
    experts: tuple[str, ...] = PRIORS
    steps: int | None = None
    mixed: int | None = None
    every: int = 1
    timed: int = 20
    ratios: tuple[float, ...] = (0.2, 0.4, 0.55, 0.7)
    criteria: tuple[str, ...] = ("blend", "gate", "opacity", "random")
    rounds: int = 8
    scored: int = 64
    refit: float = 1.5
    fused: float = 0.5
    shares: tuple[float, ...] = (0.2, 0.5, 1.0)
    distilled: float = 0.5
    min_gates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    bearable: float = 0.05
    left_out: int = 4

    def __post_init__(self) -> None:
        _one_of("budget", self.budget, BUDGETS)
        _check_experts(self.experts)
        if self.mixed is not None and not 2 <= self.mixed <= len(self.experts):
            raise ConfigError(f"mixed: expected 2 to {len(self.experts)}, which are all experts, got {self.mixed}.")
        at_least_one(self, "every", "timed", "rounds", "scored", "left_out", *([] if self.steps is None else ["steps"]))
        at_least_zero(self, "refit", "fused", "bearable")
        _check_lists(self)

    def capped(self, steps: int) -> int:
        """``steps``, or as many as a quick look allows."""
        return steps if self.steps is None else min(steps, self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts of the mixture in the tables that do not vary it."""
        return self.experts[: MIXED if self.mixed is None else self.mixed]


def numbered(priors: Sequence[str]) -> tuple[str, ...]:
    """Names of experts: the same prior again is another expert.

    Example:
        >>> numbered(["polynomial", "interpolation", "polynomial"])
        ('polynomial', 'interpolation', 'polynomial-2')
    """
    before = [priors[:i].count(p) for i, p in enumerate(priors)]
    return tuple(f"{p}-{n + 1}" if n else p for p, n in zip(priors, before, strict=True))


def prior_and_seed(name: str, seed: int) -> tuple[str, int]:
    """Prior and seed of an expert in a run with a seed.

    Example:
        >>> prior_and_seed("polynomial-2", 1)
        ('polynomial', 101)
    """
    prior, _, number = name.rpartition("-")
    return (prior, seed + REPEAT * (int(number) - 1)) if prior and number.isdecimal() else (name, seed)


def each_once(**lists: Sequence[Any]) -> None:
    """Refuse lists with a value twice, whose figures would count twice and look as if they had no spread.

    Raises:
        ConfigError: there is one; the message begins with the list's name.
    """
    for name, values in lists.items():
        if twice := [v for i, v in enumerate(values) if v in values[:i]]:
            raise ConfigError(f"{name}: expected each once, got {twice[0]} again.")


def _check_experts(names: Sequence[str]) -> None:
    if len(names) < 2 or len({prior_and_seed(name, 0) for name in names}) < len(names):
        raise ConfigError(f"experts: expected two or more different names, got {', '.join(names)}.")
    for name in names:
        prior, seed = prior_and_seed(name, 0)
        if prior not in deform.names() or seed < 0:
            known = f"{', '.join(deform.names())}; {PRIORS[0]}-2 is a second one"
            raise ConfigError(f"experts: expected motion priors ({known}), got {name!r}.")


def _check_lists(plan: Plan) -> None:
    each_once(ratios=plan.ratios, criteria=plan.criteria, shares=plan.shares, min_gates=plan.min_gates)
    for name, value in [("ratios", r) for r in plan.ratios] + [("min_gates", g) for g in plan.min_gates]:
        if not 0 <= value < 1:
            raise ConfigError(f"{name}: expected numbers in [0, 1), got {value}.")
    for name, value in [("shares", s) for s in plan.shares] + [("distilled", plan.distilled)]:
        if not 0 < value <= 1:
            raise ConfigError(f"{name}: expected a share in (0, 1], got {value}.")
    for criterion in plan.criteria:
        _one_of("criteria", criterion, CRITERIA)


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}.")


def content_key(value: Any) -> str:
    """Twelve hex digits that stand for a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
