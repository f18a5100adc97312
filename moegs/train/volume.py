"""Stage 2 for the volume router: its weights train in the loop that trains experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moegs.data import Scene
from moegs.deform.fused import Fused
from moegs.expert import Expert
from moegs.route.volume import VolumeRouter, volume_expert
from moegs.train.fit import FitConfig, fit_expert
from moegs.train.route import RouteConfig


def fit_volume_router(
    scene: Scene,
    experts: dict[str, Expert],
    config: RouteConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> Expert:
    """Train a volume router over frozen experts, in the loop that trains experts.

    Args:
        scene: the clip that the experts were trained on.
        experts: frozen experts by name.
        config: length and rates, as for :func:`moegs.train.fit_router`; the shape of the pixel router is not used.
        out: folder for checkpoint and metrics; nothing is written without it.
        resume: continue from the checkpoint in ``out``.
        cameras: train on these cameras only.
        progress: show a bar.

    Returns:
        The merged model with its trained weights; see :func:`moegs.route.volume.volume_router_of`.
    """
    router = VolumeRouter([len(e) for e in experts.values()], config.router.initial_weight)
    start = volume_expert(experts, router)
    rates = {"lr_weights": config.lr_weights, "lr_times": config.lr_time, "lr_decay": config.decay}
    prior = Fused.of([e.prior for e in experts.values()], train="volume", **rates)
    fit = FitConfig(
        steps=config.steps, lambda_dssim=config.lambda_dssim, densify_every=config.steps + 1, densify_until=0.0,
        cooldown=0.0, background=start.background, options=start.options, seed=config.seed,
        checkpoint_every=config.checkpoint_every,
    )  # fmt: skip
    fitted = fit_expert(
        scene, prior, fit, out=out, resume=resume, cameras=cameras, start=start.params, progress=progress
    )
    return replace(fitted, meta=start.meta | {"router steps": config.steps})
