"""How far a mixture trusts each Gaussian, and all its experts as one dynamic model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.deform.fused import Fused, merge
from moegs.errors import ConfigError, DataError
from moegs.expert import Expert
from moegs.gaussians.params import PREFIX, Params, populations, split_by_population
from moegs.render.environment import ENVIRONMENT
from moegs.render.viewpoint import Viewpoint
from moegs.route.mixture import Mixture
from moegs.route.render import render_experts

if TYPE_CHECKING:
    from moegs.data import View


@dataclass(frozen=True)
class Contributions:
    """What every Gaussian of a mixture adds to the views that were looked at, in pixels.

    Attributes:
        total: ``sum_{v,u} T_i alpha_i``, ``[n]``.
        gated: the same, weighted with the gate of the Gaussian's own expert, ``[n]``.
        views: how many views.
    """

    total: Float[Tensor, "n"]
    gated: Float[Tensor, "n"]
    views: int


def contributions(mixture: Mixture, views: Iterable[View | Viewpoint], *, backend: str = "auto") -> Contributions:
    """Measure every Gaussian's share of the image and of its expert's gate.

    Weight splatting is linear in the weights, so both sums are vector-Jacobian products of it: two channels are
    splatted, and the gates (and ones) are sent back through them. One forward and one backward pass a view.

    Args:
        mixture: experts and router.
        views: cameras and times to look from; the images are not used.
        backend: rasteriser.

    Raises:
        DataError: there are no views.
    """
    n = sum(mixture.router.counts)
    gated, total, seen = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64), 0
    for view in views:
        pull = _pulled_back(mixture, view, n, backend).double().cpu()
        gated, total, seen = gated + pull[:, 0], total + pull[:, 1], seen + 1
    if not seen:
        raise DataError("contributions: expected at least one view, got none.")
    return Contributions(total, gated, seen)


@torch.enable_grad()
def _pulled_back(mixture: Mixture, view: View | Viewpoint, n: int, backend: str) -> Float[Tensor, "n 2"]:
    """Gates and ones at every pixel, sent back to the Gaussians of their expert."""
    router, experts = mixture.router, list(mixture.experts.values())
    like = experts[0].at(view.time).means.detach()
    probe = torch.zeros(n, 2, dtype=like.dtype, device=like.device, requires_grad=True)
    with torch.no_grad():
        own = router.features(view.time)
    features = probe if own is None else torch.cat([own, probe], dim=-1)
    render = render_experts(experts, view.camera, view.time, features, backend=backend)
    splatted = cast(Tensor, render.features)
    with torch.no_grad():
        maps = None if own is None else splatted[..., :-2]
        gates = router.gates(maps, render.color, render.alpha, view.camera, view.time)
    weights = torch.stack([gates, torch.ones_like(gates)], dim=-1)
    (pull,) = torch.autograd.grad(splatted[..., -2:], probe, weights)
    return pull


def responsibilities(mixture: Mixture, views: Iterable[View | Viewpoint], *, backend: str = "auto") -> Float[Tensor, "n"]:
    """How far the mixture trusts each Gaussian: the mean gate of its expert over the pixels it colours.

    ``rho_i = sum_{v,u} T_i alpha_i(u) G_k(u) / sum_{v,u} T_i alpha_i(u)``, with k the expert of Gaussian i.
    Gaussians that no view shows get their expert's mean, and those of an expert that no view shows at all 1/K.

    Returns:
        Values in [0, 1] for the Gaussians of all experts in order.

    Raises:
        DataError: there are no views, or they show nothing.
    """
    return _ratio(contributions(mixture, views, backend=backend), mixture.router.counts)


def _ratio(sums: Contributions, counts: tuple[int, ...]) -> Float[Tensor, "n"]:
    if not bool((sums.total > 1e-6).any()):
        raise DataError("responsibilities: no view shows any Gaussian; give cameras of the clip that was trained on.")
    pieces = []
    for gated, total in zip(sums.gated.split(counts), sums.total.split(counts), strict=True):
        shown = total > 1e-6
        mean = gated.sum() / total.sum() if bool(shown.any()) else total.new_tensor(1 / len(counts))
        pieces.append(torch.where(shown, gated / torch.where(shown, total, 1.0), mean))
    return torch.cat(pieces).clamp(0.0, 1.0).float()


def fuse(
    mixture: Mixture, views: Iterable[View | Viewpoint], *, scaling: str = "opacity", backend: str = "auto"
) -> Expert:
    """All experts of a mixture as one ordinary dynamic model, without gates.

    The union of their Gaussians, each dimmed by its responsibility. Where the experts' raster options or backgrounds
    differ, those of the expert with the largest gated share of the views are taken for all.

    Args:
        mixture: experts and router.
        views: cameras and times over which responsibilities are averaged.
        scaling: ``"opacity"`` multiplies opacities (as the paper has it); ``"density"`` shares out optical depth, which
            keeps surfaces closed on which several experts agree.
        backend: rasteriser.

    Raises:
        ConfigError: an expert has a colour decoder, or there are more than ten.
        DataError: there are no views, or they show nothing.
    """
    experts = list(mixture.experts.values())
    check_plain(mixture.experts)
    sums = contributions(mixture, views, backend=backend)
    shares = torch.stack([g.sum() for g in sums.gated.split(mixture.router.counts)])
    lead = experts[int(shares.argmax())]
    trust = _ratio(sums, mixture.router.counts).split(mixture.router.counts)
    parts = [with_factor(e.params, "responsibility", r) for e, r in zip(experts, trust, strict=True)]
    meta = {"fused": list(mixture.experts), "raster options of": list(mixture.experts)[int(shares.argmax())]}
    scene = {k: v for k, v in lead.meta.items() if k in ("scene", "n_frames", "start", "extent", "seen_from")}
    prior = Fused.of([e.prior for e in experts], scaling=scaling)
    return Expert(prior, merge(parts), lead.options, lead.background, None, scene | meta)


def check_plain(experts: dict[str, Expert]) -> None:
    """Refuse experts with a colour decoder, an environment or different footprints, which cannot be part of one merged scene.

    Raises:
        ConfigError: names the expert.
    """
    usual = next(iter(experts.values())).options.footprint
    for name, expert in experts.items():
        if expert.options.footprint != usual:
            raise ConfigError(
                f"expert {name!r}: its footprints are drawn by another rule ({expert.options.footprint!r}) than those of the "
                f"first ({usual!r}), which one scene cannot be; import it with footprint='camera'."
            )
        if expert.decoder is not None:
            raise ConfigError(
                f"expert {name!r} decodes its colours per pixel ({expert.decoder}), so its Gaussians have none "
                "of their own; leave it out of the mixture or train it with plain colours."
            )
        if ENVIRONMENT in expert.params:
            raise ConfigError(f"expert {name!r} has an environment behind its Gaussians; leave it out of the mixture.")


def with_factor(params: Params, field: str, values: Float[Tensor, "n"]) -> Params:
    """Params with one more per-Gaussian field in every population."""
    pieces = split_by_population(params, values)
    starts = {p: f"{PREFIX}{p}." if p else PREFIX for p in populations(params)}
    return params | {f"{s}{field}": pieces[p].to(params[f"{s}opacities"]).clone() for p, s in starts.items()}
