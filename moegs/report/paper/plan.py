"""What the tables vary, and what they keep fixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moegs.errors import ConfigError

PRIORS = ("interpolation", "polynomial", "hexplane", "embedding", "reformulation")
REPEAT = 100  # distance between the seeds of experts with the same prior, so that runs with other seeds share none


@dataclass(frozen=True)
class Plan:
    """Sizes of everything that the tables compare.

    Attributes:
        budget: ``"small"``, ``"medium"`` or ``"full"``.
        experts: names of experts in the order in which mixtures take them; ``polynomial-2`` is a second one.
        steps: at most so many steps for anything that is trained, for a quick look.
        mixed: how many experts are in the mixture of the tables that do not vary it.
        every: score each ``every``-th frame.
        timed: frames to time; models that are compared take turns.
        ratios: fractions of Gaussians to prune.
        criteria: what to rank Gaussians by.
        rounds: steps in which a ratio is reached.
        scored: training views that Gaussians are ranked on.
        refit: times the steps in which experts and router learned on together, for a pruned mixture to do so again.
        shares: of the experts' steps.
        distilled: share of an expert's steps that a student is taught for.
        min_gates: gates below which an expert is left out.
        bearable: loss in dB for which the fewest tiles are told.
        left_out: cameras that stacking keeps from the experts.
    """

    budget: str = "small"
    experts: tuple[str, ...] = PRIORS
    steps: int | None = None
    mixed: int = 3
    every: int = 1
    timed: int = 20
    ratios: tuple[float, ...] = (0.2, 0.4, 0.55, 0.7)
    criteria: tuple[str, ...] = ("blend", "gate", "opacity", "random")
    rounds: int = 8
    scored: int = 64
    refit: float = 1.5
    shares: tuple[float, ...] = (0.2, 0.5, 1.0)
    distilled: float = 0.5
    min_gates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    bearable: float = 0.05
    left_out: int = 4

    def __post_init__(self) -> None:
        if len(self.experts) < 2 or len(set(self.experts)) < len(self.experts):
            raise ConfigError(f"experts: expected two or more different names, got {', '.join(self.experts)}.")

    def capped(self, steps: int) -> int:
        """``steps``, or as many as a quick look allows."""
        return steps if self.steps is None else min(steps, self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts of the mixture in the tables that do not vary it."""
        return self.experts[: self.mixed]


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


def content_key(value: Any) -> str:
    """Twelve hex digits that stand for a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
