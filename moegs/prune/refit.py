"""Short training that makes up for what was pruned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from moegs.data import Scene, View
from moegs.prune.select import PruneReport, Score, prune_in_rounds
from moegs.route.mixture import Mixture
from moegs.train.checkpoint import NAME
from moegs.train.refine import RefineConfig, refine_mixture
from moegs.train.route import RouteConfig, fit_router

EARLY = 0.25  # of the steps come when half of the rounds are over
HALFWAY = "halfway"


def prune_and_refit(
    scene: Scene,
    mixture: Mixture,
    score: Score,
    views: Iterable[View],
    *,
    ratio: float,
    steps: int,
    rounds: int = 8,
    router_only: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> tuple[Mixture, PruneReport]:
    """Prune in rounds, learn, prune on, and learn again: what is left is ranked anew once it has closed the first gaps.

    Args:
        scene: the clip that the mixture was trained on.
        mixture: what to prune; it stays as it is.
        score: a criterion, see :data:`moegs.prune.CRITERIA`.
        views: cameras and times to score on.
        ratio: fraction of all Gaussians to drop.
        steps: of all learning, a quarter of it halfway; with 0 this is :func:`prune_in_rounds`.
        rounds: steps to the ratio; with 1 all learning comes afterwards.
        router_only: as for :func:`refit`.
        seed: orders the views.
        out: folder for checkpoint and metrics, with those of what is learnt halfway in ``halfway/``. Checkpoints that are
            there go, unless this run goes on from them.
        resume: go on from the checkpoints in ``out``. Gaussians are ranked again, which takes the same course on the CPU.
            On a GPU two that are worth the same may change places, and the checkpoints are then refused.
        cameras: learn from these cameras only.
        progress: show bars.

    Raises:
        ConfigError: the ratio or the number of rounds has no meaning, or the checkpoints are of another run.
    """
    if out is not None and not resume:  # checkpoints of a former run would be taken for this one's
        for folder in (Path(out), Path(out) / HALFWAY):
            (folder / NAME).unlink(missing_ok=True)
    early = round(EARLY * steps) if rounds > 1 else 0
    how: dict[str, Any] = {"router_only": router_only, "cameras": cameras, "progress": progress, "resume": resume}

    def learn(half: Mixture) -> Mixture:
        return refit(scene, half, early, seed=seed + 1, out=None if out is None else Path(out) / HALFWAY, **how)

    pruned, report = prune_in_rounds(mixture, score, views, ratio=ratio, rounds=rounds, halfway=learn)
    return refit(scene, pruned, steps - early, seed=seed, out=out, **how), report


def refit(
    scene: Scene,
    mixture: Mixture,
    steps: int,
    *,
    router_only: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> Mixture:
    """Train a pruned mixture on, without adding or removing Gaussians; the mixture that is given stays as it is.

    Args:
        scene: the clip that it was trained on.
        mixture: what pruning left.
        steps: optimisation steps; with 0 the mixture comes back as it is.
        router_only: the router alone, at a fifth of its usual rates, as in the paper. Otherwise experts and router together,
            through the blend (:func:`moegs.train.refine_mixture`): the Gaussians that are left then close the gaps.
        seed: orders the views.
        out: folder for checkpoint and metrics; nothing is written without it.
        resume: continue from the folder's checkpoint.
        cameras: learn from these cameras only.
        progress: show a bar.

    Raises:
        ConfigError: the checkpoint is of another run, or there is no ``out`` to resume in.
    """
    if steps < 1:
        return mixture
    how: dict[str, Any] = {"out": out, "resume": resume, "cameras": cameras, "progress": progress}
    if not router_only:
        return refine_mixture(scene, mixture, RefineConfig(steps=steps, seed=seed), **how)
    usual = RouteConfig()
    config = replace(
        usual, router=mixture.router.config, steps=steps, seed=seed, lr_weights=usual.lr_weights / 5,
        lr_time=usual.lr_time / 5, lr_network=usual.lr_network / 5,
    )  # fmt: skip
    return fit_router(scene, mixture.experts, config, start=mixture.router, **how)
