"""Training a finished model on: an expert, or what a mixture was fused into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from moegs.data import Scene
from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.train.fit import FitConfig, fit_expert


def train_on(
    scene: Scene,
    expert: Expert,
    steps: int,
    *,
    seed: int = 0,
    start_as: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> Expert:
    """Let a model learn on from the photographs, with the Gaussians that it has; what is given stays as it is.

    Rates go once more from the beginning of its prior's schedules to their end. A mixture that was fused into one model
    (:func:`moegs.route.fuse`) wins back so what sharing out the experts' opacities cost it.

    Args:
        scene: the clip that it was trained on.
        expert: the model.
        steps: optimisation steps; with 0 it comes back as it is.
        seed: orders the views.
        start_as: what the model is known by to resume, as for :func:`fit_expert`.
        out: folder for checkpoint and metrics; nothing is written without it.
        resume: go on from the checkpoint in ``out``.
        cameras: training cameras to learn from instead of all of them.
        progress: show a bar.

    Raises:
        ConfigError: the number of steps has no meaning, or the checkpoint is of another run.
        DivergenceError: a loss or gradient is not finite.
    """
    if steps < 0:
        raise ConfigError(f"steps: expected 0 or more, got {steps}.")
    if steps == 0:
        return expert
    usual = FitConfig()
    config = unchanging(replace(
        usual, steps=steps, seed=seed, options=expert.options, background=expert.background,
        checkpoint_every=min(usual.checkpoint_every, max(1, steps // 4)),
    ))  # fmt: skip
    how: dict[str, Any] = {"out": out, "resume": resume, "cameras": cameras, "progress": progress}
    done = fit_expert(
        scene, expert.prior, config, start=expert.params, start_as=start_as, device=expert.device, **how
    )
    before = expert.meta.get("steps", 0)
    return replace(done, decoder=expert.decoder, meta=expert.meta | done.meta | {"steps": before + steps})


def unchanging(fit: FitConfig) -> FitConfig:
    """Without densification or removal, so that a model stays as large as it was."""
    return replace(fit, densify_until=0.0, densify_every=fit.steps + 1)
