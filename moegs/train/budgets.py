"""How much work to put in: three named sizes of a run, so that nobody has to tune before the first picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moegs import deform
from moegs.data import Scene
from moegs.deform.prior import Prior
from moegs.errors import ConfigError
from moegs.gaussians.densify import DensifyRule
from moegs.train.fit import FitConfig
from moegs.train.refine import RefineConfig
from moegs.train.route import RouteConfig


@dataclass(frozen=True)
class Budget:
    """One size of a run.

    Attributes:
        steps: optimisation steps of an expert, before its prior's :data:`SHARE`.
        more_steps: at most so many times more, of everything, where pictures are too small for ``max_gaussians``, which
            makes steps cheap.
        max_gaussians: hard cap on the Gaussians of an expert, where :data:`PER_PIXEL` does not set a lower one.
        densify_every: steps between edits of the set of Gaussians.
        router_steps: optimisation steps of the router, before ``more_steps``.
        refine_steps: optimisation steps of experts and router together, before ``more_steps``.
    """

    steps: int
    more_steps: float
    max_gaussians: int
    densify_every: int
    router_steps: int
    refine_steps: int


BUDGETS = {
    "small": Budget(7_000, 1.5, max_gaussians=40_000, densify_every=100, router_steps=1_000, refine_steps=2_500),
    "medium": Budget(20_000, 1.0, max_gaussians=80_000, densify_every=200, router_steps=3_000, refine_steps=5_000),
    "full": Budget(40_000, 1.0, max_gaussians=300_000, densify_every=200, router_steps=5_000, refine_steps=10_000),
}
"""small: minutes on a laptop. medium: an evening. full: as long as the originals train."""

PER_PIXEL = 0.75
"""Small pictures need fewer Gaussians: at most this many for each pixel of the largest camera."""

SHARE = {"polynomial": 1.3, "hexplane": 0.7, "embedding": 0.6}
"""Cheap steps are taken more often and dear ones less, so that a budget means time rather than steps."""


def budget(name: str, scene: Scene, prior_name: str) -> tuple[Prior, FitConfig]:
    """A prior with hyper-parameters for this clip, and how to train it.

    Args:
        name: ``"small"``, ``"medium"`` or ``"full"``.
        scene: the clip.
        prior_name: one of :func:`moegs.deform.names`.

    Raises:
        ConfigError: there is no such budget or prior.

    Example:
        >>> _sized("small").steps
        7000
    """
    size = _sized(name)
    config = FitConfig(
        steps=round(_more(size, scene) * size.steps * SHARE.get(prior_name, 1.0)),
        densify=DensifyRule(max_gaussians=_most(size, scene)),
        densify_every=size.densify_every,
    )
    return deform.get(prior_name).for_clip(scene.n_frames), config


def route_budget(name: str, scene: Scene) -> RouteConfig:
    """How to train the router of a clip at a budget.

    Raises:
        ConfigError: there is no such budget.

    Example:
        >>> _sized("small").router_steps
        1000
    """
    size = _sized(name)
    return RouteConfig(steps=round(_more(size, scene) * size.router_steps))


def refine_budget(name: str, scene: Scene) -> RefineConfig:
    """How to train experts and router of a clip together at a budget.

    Raises:
        ConfigError: there is no such budget.

    Example:
        >>> _sized("small").refine_steps
        2500
    """
    size = _sized(name)
    return RefineConfig(steps=round(_more(size, scene) * size.refine_steps))


def _most(size: Budget, scene: Scene) -> int:
    pixels = max(camera.width * camera.height for camera in scene.cameras)
    return min(size.max_gaussians, round(PER_PIXEL * pixels))


def _more(size: Budget, scene: Scene) -> float:
    """Times the steps, where fewer Gaussians make them cheap."""
    return min(math.sqrt(size.max_gaussians / _most(size, scene)), size.more_steps)


def _sized(name: str) -> Budget:
    if name not in BUDGETS:
        raise ConfigError(f"budget: expected one of {', '.join(BUDGETS)}, got {name!r}.")
    return BUDGETS[name]
