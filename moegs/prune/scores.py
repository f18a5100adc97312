"""How much a mixture needs each Gaussian: one score a Gaussian, streaming over views, at most one backward pass a view.

Every function takes a mixture and views and returns ``[n]`` values for the Gaussians of all experts in order; larger
means more needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError, DataError
from moegs.expert import Expert
from moegs.gaussians.container import Gaussians
from moegs.prune.select import Score
from moegs.render.types import ALPHA_MAX
from moegs.render.viewpoint import Viewpoint
from moegs.route.fuse import contributions
from moegs.route.mixture import Mixture
from moegs.route.render import render_experts, render_mixture

if TYPE_CHECKING:
    from moegs.data import View


def gate_sensitivity(mixture: Mixture, views: Iterable[View | Viewpoint], *, backend: str = "auto") -> Float[Tensor, "n"]:
    """How far each Gaussian's router weights move the gate of its own expert (MoE-GS §3.3).

    ``E_i = mean_v || d sum_u G_k(u, v) / d w_i^per(v) ||`` with k the expert of i. The experts do not share weights, so
    the derivative is that of ``sum_k sum_u stopgrad(G_k (1 - G_k) / tau) R_k(u)``: one backward pass serves all of
    them, and no Jacobian is ever held. Where one expert's gate is saturated, G (1 - G) vanishes, however much the
    picture rests on its Gaussians: see :func:`blend_sensitivity`.

    Args:
        mixture: experts, of any priors, and a router with weights on Gaussians.
        views: cameras and times to average over, gone through once; their photographs are not looked at.
        backend: rasteriser.

    Returns:
        One score a Gaussian, experts in order, in gate times pixels per unit of weight.

    Raises:
        ConfigError: the router has no weights on Gaussians, or one expert alone, whose gate is 1 everywhere.
        DataError: there are no views.
    """
    if len(mixture.experts) == 1:
        raise ConfigError("gate_sensitivity: the gate of one expert alone never moves; use another criterion.")
    if mixture.router.config.kind == "pixel":
        raise ConfigError("gate_sensitivity: a pixel router has no weights on Gaussians; use another criterion.")
    return _mean_over(views, lambda view: _gate_gradient(mixture, view, backend).norm(dim=-1))


@torch.enable_grad()
def _gate_gradient(mixture: Mixture, view: View | Viewpoint, backend: str) -> Float[Tensor, "n f"]:
    router = mixture.router
    weights = cast(Tensor, router.features(view.time)).detach().requires_grad_()
    render = render_experts(list(mixture.experts.values()), view.camera, view.time, weights, backend=backend)
    logits = router.logits(render.features, render.color, render.alpha, view.camera, view.time)
    gates = torch.softmax(logits.detach() / router.config.temperature, dim=0)
    surrogate = (gates * (1 - gates) / router.config.temperature * logits).sum()
    return torch.autograd.grad(surrogate, weights)[0]


def blend_sensitivity(
    mixture: Mixture, views: Iterable[View | Viewpoint], *, probes: int = 1, seed: int = 0, backend: str = "auto"
) -> Float[Tensor, "n"]:
    """How far the blended image moves when a Gaussian goes: through its colour and through the gates.

    Compositing is linear in each opacity, so removing Gaussian i changes its expert's image by exactly minus the
    derivative with respect to a factor s_i on its opacity; the change of the gates is taken to first order. With
    J_i = dI/ds_i over all pixels and channels, the score is ``E_i = mean_v ||J_i||^2``: the squared error that its
    absence brings to the picture. The sum of squares over pixels needs no Jacobian: for random signs e,
    ``E[(e · J_i)^2] = ||J_i||^2`` (Hutchinson), one backward pass a view and probe.

    Args:
        mixture: experts and any router.
        views: cameras and times, gone through once; their photographs are not looked at.
        probes: draws of signs a view; the relative noise of a score is ``sqrt(2 / (probes · views that show it))``.
        seed: of the signs.
        backend: rasteriser.

    Raises:
        ConfigError: there is not even one draw.
        DataError: there are no views.
    """
    if probes < 1:
        raise ConfigError(f"blend_sensitivity: expected probes of 1 or more, got {probes}.")
    generator = torch.Generator().manual_seed(seed)
    return _mean_over(views, lambda view: _blend_changes(mixture, view, probes, generator, backend))


@torch.enable_grad()
def _blend_changes(
    mixture: Mixture, view: View | Viewpoint, probes: int, generator: torch.Generator, backend: str
) -> Float[Tensor, "n"]:
    gains = [torch.ones_like(e.at(view.time).opacities).detach().requires_grad_() for e in mixture.experts.values()]
    experts: dict[str, Expert] = {
        name: _Gained(e.prior, e.params, e.options, e.background, e.decoder, e.meta, gain)
        for (name, e), gain in zip(mixture.experts.items(), gains, strict=True)
    }
    image = render_mixture(Mixture(experts, mixture.router), view.camera, view.time, backend=backend).color
    total = torch.zeros(sum(mixture.router.counts), dtype=image.dtype, device=image.device)
    for _ in range(probes):
        signs = torch.randint(0, 2, image.shape, generator=generator).to(image) * 2 - 1
        total += torch.cat(torch.autograd.grad(image, gains, signs, retain_graph=True, materialize_grads=True)).square()
    return total / probes


@dataclass(frozen=True, repr=False)
class _Gained(Expert):
    """An expert whose opacities carry a factor to differentiate by."""

    gain: Tensor | None = None

    def at(self, t: float | Tensor, camera: int | None = None) -> Gaussians:
        now = super().at(t, camera).detach()
        # no gradient passes where alpha is capped
        return replace(now, opacities=now.opacities.clamp_max(ALPHA_MAX - 1e-4) * cast(Tensor, self.gain))


def opacity(mixture: Mixture, views: Iterable[View | Viewpoint]) -> Float[Tensor, "n"]:
    """Mean opacity at the times of the views."""
    return _mean_over(views, lambda view: torch.cat([e.at(view.time).opacities for e in mixture.experts.values()]))


def contribution(mixture: Mixture, views: Iterable[View | Viewpoint], *, backend: str = "auto") -> Float[Tensor, "n"]:
    """Pixels that each Gaussian colours in its expert's render, ``mean_v sum_u T_i alpha_i``."""
    sums = contributions(mixture, views, backend=backend)
    return (sums.total / sums.views).float()


def gated_contribution(mixture: Mixture, views: Iterable[View | Viewpoint], *, backend: str = "auto") -> Float[Tensor, "n"]:
    """Pixels that each Gaussian colours in the blend, ``mean_v sum_u G_k T_i alpha_i``."""
    sums = contributions(mixture, views, backend=backend)
    return (sums.gated / sums.views).float()


def random(mixture: Mixture, views: Iterable[View | Viewpoint] = (), *, seed: int = 0) -> Float[Tensor, "n"]:
    """Any order: the yardstick that every criterion has to beat."""
    return torch.rand(sum(mixture.router.counts), generator=torch.Generator().manual_seed(seed))


def _gate(mixture: Mixture, views: Iterable[View | Viewpoint]) -> Float[Tensor, "n"]:
    """:func:`gate_sensitivity`, and :func:`contribution` once pruning has left one expert, whose gate never moves."""
    return contribution(mixture, views) if len(mixture.experts) == 1 else gate_sensitivity(mixture, views)


CRITERIA: dict[str, Score] = {
    "blend": blend_sensitivity,
    "gate": _gate,
    "gated-contribution": gated_contribution,
    "contribution": contribution,
    "opacity": opacity,
    "random": random,
}


def criterion(name: str, seed: int = 0) -> Score:
    """A score by name; those that draw numbers (blend, random) draw them with the seed.

    Raises:
        ConfigError: there is no such criterion.
    """
    if name not in CRITERIA:
        raise ConfigError(f"criterion: expected one of {', '.join(CRITERIA)}, got {name!r}.")
    drawn: dict[str, Score] = {"blend": partial(blend_sensitivity, seed=seed), "random": partial(random, seed=seed)}
    return (CRITERIA | drawn)[name]


def _mean_over(views: Iterable[View | Viewpoint], values: Callable[[View | Viewpoint], Tensor]) -> Float[Tensor, "n"]:
    """Streaming mean in float64."""
    total, seen = None, 0
    for view in views:
        now = values(view).detach().double().cpu()
        total, seen = now if total is None else total + now, seen + 1
    if total is None:
        raise DataError("score: expected at least one view, got none.")
    return (total / seen).float()
