"""Which experts to mix: subsets ranked by what they gain for the time they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from moegs.data import Scene
from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.io import finite
from moegs.progress import progress_bar
from moegs.train._checks import at_least_one
from moegs.train.evaluate import Renderer, evaluate, expert_renderer, milliseconds, mixture_renderer
from moegs.train.route import RouteConfig, fit_router


@dataclass(frozen=True)
class Candidate:
    """A subset of experts and what it is worth on the validation cameras.

    Attributes:
        experts: their names, in the order given.
        psnr: of their mixture (of the expert itself, if it is one), dB.
        gain: dB above the best single expert.
        ms: milliseconds a frame.
        gain_per_ms: ``gain / ms``, what subsets that gain are ranked by. The others follow, least loss first.
        efficient: no other subset is both as good and as fast.
    """

    experts: tuple[str, ...]
    psnr: float
    gain: float
    ms: float
    gain_per_ms: float
    efficient: bool

    def to_json(self) -> dict[str, Any]:
        """All fields by name; what is not finite, as where equal images have an infinite PSNR, becomes None."""
        return finite(asdict(self))


@dataclass(frozen=True)
class SelectConfig:
    """How subsets are compared.

    Attributes:
        sizes: numbers of experts to mix; single experts are always scored for comparison.
        validation: how many training cameras to validate on; the routers learn from the others. The held-out cameras
            are never looked at. Experts that were trained on the validation cameras look better there than elsewhere,
            all of them alike as far as they fit them alike; keep cameras from the experts to rule that out.
        every: validate on each ``every``-th frame.
        timed: frames to time; all subsets take turns.
        steps: steps of each short router fit.
        seed: of the routers.

    Raises:
        ConfigError: a number has no meaning; the message names the field.
    """

    sizes: tuple[int, ...] = (2, 3)
    validation: int = 2
    every: int = 2
    timed: int = 8
    steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(self, "validation", "every", "timed", "steps")
        if not self.sizes or min(self.sizes) < 2:
            raise ConfigError(f"sizes: expected numbers of experts to mix, at least 2, got {list(self.sizes)}.")


@dataclass(frozen=True)
class _Trial:
    names: tuple[str, ...]
    psnr: float
    ms: float


def validation_cameras(scene: Scene, n: int) -> tuple[int, ...]:
    """``n`` training cameras spread evenly over their list.

    Raises:
        ConfigError: none would be left to learn from.
    """
    if not 1 <= n < len(scene.train):
        raise ConfigError(f"validation: expected 1 to {len(scene.train) - 1} training cameras, got {n}.")
    return tuple(scene.train[(2 * i + 1) * len(scene.train) // (2 * n)] for i in range(n))


def rank_subsets(
    scene: Scene,
    experts: dict[str, Expert],
    config: SelectConfig = SelectConfig(),
    *,
    route: RouteConfig | None = None,
    cameras: Sequence[int] | None = None,
    progress: bool = True,
) -> list[Candidate]:
    """Fit a short router over every subset and rank them by decibels gained per millisecond.

    Args:
        scene: the clip.
        experts: trained experts by name.
        config: sizes, cameras and length.
        route: settings of the router beside its length and seed.
        cameras: training cameras to validate on, instead of some spread evenly.
        progress: show a bar.

    Returns:
        Best first: what gains by gain per millisecond, then the best single expert, then what loses.

    Raises:
        ConfigError: a camera is held out, none is left to learn from, or there are fewer experts than the smallest size.
    """
    chosen = validation_cameras(scene, config.validation) if cameras is None else tuple(cameras)
    scene.training_cameras(chosen, "validation")
    if not set(scene.train) - set(chosen):
        raise ConfigError(f"validation: all {len(scene.train)} training cameras are named, none is left to learn from.")
    subsets = [s for n in sorted({1, *config.sizes}) for s in combinations(experts, n)]
    if max(len(s) for s in subsets) < min(config.sizes):
        raise ConfigError(f"select: expected at least {min(config.sizes)} experts, got {len(experts)}.")
    others = tuple(c for c in scene.train if c not in chosen)
    settings = replace(route or RouteConfig(), steps=config.steps, seed=config.seed)
    renderers: dict[str, Renderer] = {}
    scores = []
    with progress_bar("trying subsets", len(subsets), progress) as advance:
        for names in subsets:
            renderer = renderers[" ".join(names)] = _renderer(scene, {n: experts[n] for n in names}, settings, others)
            scores.append(evaluate(renderer, scene, chosen, every=config.every, timed=1).mean.psnr)
            advance()
    ms = milliseconds(scene, renderers, chosen[0], config.timed)
    return _ranked([_Trial(names, score, ms[" ".join(names)]) for names, score in zip(subsets, scores, strict=True)])


def _renderer(
    scene: Scene, experts: dict[str, Expert], settings: RouteConfig, cameras: tuple[int, ...]
) -> Renderer:  # fmt: skip
    if len(experts) == 1:
        return expert_renderer(next(iter(experts.values())))
    return mixture_renderer(fit_router(scene, experts, settings, cameras=cameras, progress=False))


def _ranked(trials: Sequence[_Trial]) -> list[Candidate]:
    best = max(t.psnr for t in trials if len(t.names) == 1)
    candidates = [
        Candidate(
            t.names, t.psnr, t.psnr - best, t.ms, (t.psnr - best) / t.ms,
            not any(o.psnr >= t.psnr and o.ms <= t.ms and o != t for o in trials),
        )
        for t in trials
    ]  # fmt: skip
    return sorted(candidates, key=lambda c: (c.gain <= 0, -c.gain_per_ms if c.gain > 0 else -c.gain, c.ms))
