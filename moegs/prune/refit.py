"""Short training that makes up for what was pruned."""

from __future__ import annotations

from dataclasses import replace

from moegs.data import Scene
from moegs.route.mixture import Mixture
from moegs.train.refine import RefineConfig, refine_mixture
from moegs.train.route import RouteConfig, fit_router


def refit(
    scene: Scene, mixture: Mixture, steps: int, *, router_only: bool = False, seed: int = 0, progress: bool = True
) -> Mixture:
    """Train a pruned mixture on, without adding or removing Gaussians; the mixture that is given stays as it is.

    Args:
        scene: the clip that it was trained on.
        mixture: what pruning left.
        steps: optimisation steps; with 0 the mixture comes back as it is.
        router_only: the router alone, at a fifth of its usual rates, as in the paper. Otherwise experts and router together,
            through the blend (:func:`moegs.train.refine_mixture`): the Gaussians that are left then close the gaps.
        seed: orders the views.
        progress: show a bar.
    """
    if steps < 1:
        return mixture
    if not router_only:
        return refine_mixture(scene, mixture, RefineConfig(steps=steps, seed=seed), progress=progress)
    usual = RouteConfig()
    config = replace(
        usual, router=mixture.router.config, steps=steps, seed=seed, lr_weights=usual.lr_weights / 5,
        lr_time=usual.lr_time / 5, lr_network=usual.lr_network / 5,
    )  # fmt: skip
    return fit_router(scene, mixture.experts, config, start=mixture.router, progress=progress)
