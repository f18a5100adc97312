"""Short training that makes up for what was pruned."""

from __future__ import annotations

from dataclasses import replace

from moegs.data import Scene
from moegs.expert import Expert
from moegs.route.mixture import Mixture
from moegs.train.fit import FitConfig, fit_expert
from moegs.train.refine import RefineConfig, refine_mixture
from moegs.train.route import RouteConfig, fit_router


def refit_router(scene: Scene, mixture: Mixture, steps: int, *, seed: int = 0, progress: bool = True) -> Mixture:
    """A short router fit that continues from the mixture's own router, at a fifth of the usual rates."""
    if steps < 1:
        return mixture
    usual = RouteConfig()
    config = replace(
        usual, router=mixture.router.config, steps=steps, seed=seed, lr_weights=usual.lr_weights / 5,
        lr_time=usual.lr_time / 5, lr_network=usual.lr_network / 5,
    )  # fmt: skip
    return fit_router(scene, mixture.experts, config, start=mixture.router, progress=progress)


def refit_experts(scene: Scene, mixture: Mixture, steps: int, *, seed: int = 0, progress: bool = True) -> Mixture:
    """Train each expert on by itself, without adding or removing Gaussians; the router stays as it is.

    The paper refits the router alone. The Gaussians that are left can also close the gaps, which is worth more.
    """
    if steps < 1:
        return mixture
    experts = {name: _refitted(scene, expert, steps, seed, progress) for name, expert in mixture.experts.items()}
    return Mixture(experts, mixture.router)


def refit_together(scene: Scene, mixture: Mixture, steps: int, *, seed: int = 0, progress: bool = True) -> Mixture:
    """Train experts and router on together, through the blend (:func:`moegs.train.refine_mixture`): worth the most."""
    return refine_mixture(scene, mixture, RefineConfig(steps=steps, seed=seed), progress=progress) if steps else mixture


def _refitted(scene: Scene, expert: Expert, steps: int, seed: int, progress: bool) -> Expert:
    config = FitConfig(
        steps=steps, densify_every=steps + 1, densify_until=0.0, options=expert.options, background=expert.background,
        seed=seed,
    )  # fmt: skip
    fitted = fit_expert(scene, expert.prior, config, start=expert.params, progress=progress)
    return replace(fitted, decoder=expert.decoder, meta=expert.meta | {"refit steps": steps})
