"""Pruning of one model by itself: an expert, or what a mixture was fused into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moegs.data import Scene, View
from moegs.expert import Expert
from moegs.prune.refit import EARLY, HALFWAY
from moegs.prune.scores import criterion
from moegs.prune.select import prune_in_rounds
from moegs.render.viewpoint import Viewpoint
from moegs.route.mixture import Mixture
from moegs.route.routers import VolumePixelRouter
from moegs.train.onward import train_on

_NAME = "alone"


def prune_expert(
    scene: Scene,
    expert: Expert,
    views: Iterable[View | Viewpoint],
    *,
    ratio: float,
    steps: int,
    by: str = "blend",
    rounds: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> Expert:
    """Drop a model's Gaussians in rounds and let it learn on, as :func:`moegs.prune.prune_and_refit` does with a mixture.

    Args:
        scene: the clip that it was trained on.
        expert: the model; it stays as it is.
        views: cameras and times to score on, gone through before every round.
        ratio: fraction of its Gaussians to drop, in [0, 1).
        steps: of all learning, a quarter of it halfway.
        by: criterion, see :data:`moegs.prune.CRITERIA`: what the absence of a Gaussian costs the picture by default.
        rounds: steps to the ratio.
        seed: orders the views.
        out: folder for checkpoint and metrics, with those of what is learnt halfway in ``halfway/``.
        resume: go on from the checkpoints in ``out``, as for :func:`moegs.prune.prune_and_refit`.
        cameras: learn from these cameras only.
        progress: show bars.

    Raises:
        ConfigError: the ratio, the criterion or the number of rounds has no meaning, or the checkpoints are of another run.
    """
    early = round(EARLY * steps) if rounds > 1 else 0
    how: dict[str, Any] = {"resume": resume, "cameras": cameras, "progress": progress}

    def learn(half: Mixture) -> Mixture:
        folder = None if out is None else Path(out) / HALFWAY
        return _alone(train_on(scene, half.experts[_NAME], early, seed=seed + 1, out=folder, **how))

    score = criterion(by, seed)
    pruned, report = prune_in_rounds(_alone(expert), score, views, ratio=ratio, rounds=rounds, halfway=learn)
    done = train_on(scene, pruned.experts[_NAME], steps - early, seed=seed, out=out, **how)
    return replace(done, meta=done.meta | {"pruned": report.to_json()})


def _alone(expert: Expert) -> Mixture:
    """A mixture whose only gate is 1, which criteria take."""
    router = VolumePixelRouter([len(expert)], generator=torch.Generator())
    return Mixture({_NAME: expert}, router.to(expert.device, expert.params[next(iter(expert.params))].dtype))
