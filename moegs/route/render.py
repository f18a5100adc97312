"""A mixture's pictures: every expert's, their gates and the blend, from one rasteriser call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moegs.errors import ConfigError
from moegs.expert import Expert, finish
from moegs.gaussians.container import Gaussians, concatenate
from moegs.render.api import Render, rasterize
from moegs.render.camera import Camera
from moegs.render.environment import ENVIRONMENT
from moegs.render.seen import with_colors
from moegs.route.blend import gated_blend
from moegs.route.mixture import Mixture
from moegs.route.routers import group_tags


@dataclass(frozen=True, eq=False)
class MixtureRender:
    """One view of a mixture: the blend and what it was made of.

    ``color`` [h,w,3], ``gates`` [k,h,w], and one image an expert: ``images`` [k,h,w,3], ``depths`` [k,h,w] (accumulated),
    ``alphas`` [k,h,w]; ``maps`` [k,h,w,f] are the splatted router channels.
    """

    color: Tensor
    gates: Tensor
    images: Tensor
    depths: Tensor
    alphas: Tensor
    maps: Tensor | None
    backend: str


def render_mixture(
    mixture: Mixture,
    camera: Camera,
    t: float,
    *,
    temperature: float | None = None,
    without: Collection[str] = (),
    backend: str = "auto",
) -> MixtureRender:
    """Render all experts, their router channels and the blend from one rasteriser call (MoE-GS §3.3).

    Args:
        mixture: experts and router.
        camera: where from.
        t: clip-normalised time.
        temperature: of the gates, instead of the router's own, as while a router is trained on a schedule.
        without: names of experts that are neither moved nor drawn: their gates are 0, the others' share out what they had,
            and their pictures are empty.
        backend: rasteriser.

    Raises:
        ConfigError: ``without`` names an expert that the mixture has not, or leaves none.
    """
    if without:
        return _render_some(mixture, camera, t, temperature, without, backend)
    render = render_experts(list(mixture.experts.values()), camera, t, mixture.router.features(t), backend=backend)
    color, gates = mixture.router.blend(render.features, render.color, render.alpha, camera, t, temperature)
    return MixtureRender(color, gates, render.color, render.depth, render.alpha, render.features, render.backend)


def _render_some(
    mixture: Mixture, camera: Camera, t: float, temperature: float | None, without: Collection[str], backend: str
) -> MixtureRender:
    names, router, features = list(mixture.experts), mixture.router, mixture.router.features(t)
    if unknown := sorted(set(without) - set(mixture.experts)):
        raise ConfigError(f"without: the mixture has no expert {unknown[0]!r}; it has {', '.join(names)}.")
    drawn = [i for i, name in enumerate(names) if name not in without]
    if not drawn:
        raise ConfigError("without: names all experts of the mixture; leave one to be drawn.")
    if features is not None:
        each = features.split(router.counts)
        features = torch.cat([each[i] for i in drawn])
    render = render_experts([mixture.experts[names[i]] for i in drawn], camera, t, features, backend=backend)

    places = torch.tensor(drawn, device=render.color.device)

    def spread(values: Tensor) -> Tensor:
        """One entry for each expert of the mixture again, zeros for those that are missing."""
        return values.new_zeros(len(names), *values.shape[1:]).index_copy(0, places, values)

    images, alphas = spread(render.color), spread(render.alpha)
    maps = None if render.features is None else spread(render.features)
    missing = torch.ones_like(alphas, dtype=torch.bool).index_fill(0, places, False)
    # a router that holds an expert's colours against the mean of all sees the mean of those that are there
    seen = torch.where(missing[..., None], render.color.mean(0), images)
    logits = router.logits(maps, seen, alphas, camera, t).masked_fill(missing, -torch.inf)
    color, gates = gated_blend(images, logits, router.config.temperature if temperature is None else temperature)
    return MixtureRender(color, gates, images, spread(render.depth), alphas, maps, render.backend)


def render_experts(
    experts: Sequence[Expert],
    camera: Camera,
    t: float,
    features: Float[Tensor, "n f"] | None = None,
    *,
    now: Sequence[Gaussians] | None = None,
    tiles: Bool[Tensor, "k rows columns"] | None = None,
    backend: str = "auto",
) -> Render:
    """All experts in a single pass: every image of the result has one entry an expert, ``[k, h, w, …]``.

    Each is the same as it would be drawn alone, through its own raster options and over its own background. Colour
    decoders are applied.

    Args:
        experts: in order.
        camera: where from.
        t: clip-normalised time.
        features: further channels to splat, one row a Gaussian of all experts in order.
        now: the experts' Gaussians at t, if they are known already.
        tiles: which tiles of 16×16 pixels to draw of each expert, the others show its background.
        backend: rasteriser.

    Raises:
        ShapeError: features or tiles do not fit, or the experts are not of one dtype on one device.
    """
    # colours before they are joined: what one expert's need is not done to the others'
    now = [with_colors(g, camera) for g in ([e.at(t) for e in experts] if now is None else now)]
    own = max((g.features.shape[1] for g in now if g.features is not None), default=0)
    merged = concatenate([replace(g, features=_padded(g, own)) for g in now])
    extra = [f for f in (features, merged.features) if f is not None]
    tags = group_tags([len(g) for g in now]).to(merged.means.device)
    render = rasterize(
        replace(merged, features=None), camera, groups=tags, features=torch.cat(extra, dim=-1) if extra else None,
        options=[e.options for e in experts], background=merged.means.new_tensor([e.background for e in experts]),
        tiles=tiles, backend=backend,
    )  # fmt: skip
    return _decoded(experts, render, camera, 0 if features is None else features.shape[1])


def _padded(gaussians: Gaussians, channels: int) -> Tensor | None:
    if channels == 0:
        return None
    if gaussians.features is None:
        return gaussians.means.new_zeros(len(gaussians), channels)
    return torch.nn.functional.pad(gaussians.features, (0, channels - gaussians.features.shape[1]))


def _decoded(experts: Sequence[Expert], render: Render, camera: Camera, n_extra: int) -> Render:
    """Give each expert its own splatted features to decode, and keep the caller's."""
    extra = None if n_extra == 0 or render.features is None else render.features[..., :n_extra]
    if all(e.decoder is None and ENVIRONMENT not in e.params for e in experts):
        return replace(render, features=extra)  # putting the pictures together anew would take longer than the blend
    own = None if render.features is None else render.features[..., n_extra:]
    each = zip(render.color, render.alpha, [None] * len(experts) if own is None else own, strict=True)
    alone = [replace(render, color=color, alpha=alpha, features=features) for color, alpha, features in each]
    colors = [finish(e, r, camera).color for e, r in zip(experts, alone, strict=True)]
    return replace(render, color=torch.stack(colors), features=extra)
