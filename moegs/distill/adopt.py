"""What a student takes over from the other experts: Gaussians that the mixture relies on, in the place of idle ones.

A picture teaches a student what a place looks like, not where it lacks Gaussians. The other experts have them there: their
places, drift, shapes and colours are things that any motion prior can start from. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.data import View
from moegs.deform.prior import Prior
from moegs.errors import ConfigError, DataError
from moegs.expert import Expert
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, concatenate, covariances
from moegs.gaussians.harmonics import to_rgb
from moegs.gaussians.params import Params, join, population_of, take
from moegs.gaussians.quaternions import decompose
from moegs.render.api import shares
from moegs.route.mixture import Mixture, render_mixture

ALWAYS = 0.9  # of the clip: who is there for as long is there throughout


def adopt(
    mixture: Mixture,
    name: str,
    student: Expert,
    views: Iterable[View],
    n_frames: int,
    share: float,
    *,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Params:
    """Raw parameters of a student with other experts' Gaussians instead of those that it can best do without.

    Gaussians are ranked by what they add to the blend, ``sum_{v,u} G_k T_i alpha_i`` with the gates of the mixture. The
    student's last go for the others' first, as many as ``share`` of its own, and only while those add more. Experts
    whose colours need decoding give none.

    Args:
        mixture: whose gates count, and where the Gaussians come from.
        name: whose gate is the student's.
        student: may have other Gaussians than the expert of that name.
        views: cameras and times over which Gaussians are ranked; the images are not used.
        n_frames: of the clip.
        share: largest fraction of the student's Gaussians to replace.
        generator: for priors that start at random.
        backend: rasteriser.

    Raises:
        ConfigError: the student's tensors are not those that its prior starts Gaussians with.
        DataError: there are no views.
    """
    givers = {n: e for n, e in mixture.experts.items() if n != name and e.decoder is None}
    score = gated_shares(mixture, {name: student} | givers, views, backend=backend)
    last, first = score.pop(name).sort(), torch.cat([*score.values(), torch.zeros(0)]).sort(descending=True)
    room = min(int(share * len(student)), len(first.values))
    n = int((first.values[:room] > last.values[:room]).sum())
    keep, chosen = torch.ones(len(student), dtype=torch.bool), torch.zeros(len(first.values), dtype=torch.bool)
    keep[last.indices[:n]], chosen[first.indices[:n]] = False, True
    parts = [take(student.params, keep)]
    for giver, rows in zip(givers.values(), chosen.split([len(e) for e in givers.values()]), strict=True):
        if rows.any():
            parts.append(_alike(student.prior.init(as_cloud(giver, rows, n_frames), generator), parts[0], student.prior))
    return {k: v.detach().clone() for k, v in join(parts).items()}


def gated_shares(
    mixture: Mixture, experts: dict[str, Expert], views: Iterable[View], *, backend: str = "auto"
) -> dict[str, Float[Tensor, "n"]]:
    """``sum_{v,u} G_k T_i alpha_i`` of every Gaussian of some experts, with the gates of the mixture's of the same names.

    Raises:
        DataError: there are no views.
    """
    order, total = list(mixture.experts), {n: torch.zeros(len(e), dtype=torch.float64) for n, e in experts.items()}
    seen = 0
    for view in views:
        seen += 1
        with torch.no_grad():
            gates = render_mixture(mixture, view.camera, view.time, backend=backend).gates
            for n, e in experts.items():
                own = shares(e.at(view.time), view.camera, gates[order.index(n)], options=e.options, backend=backend)
                total[n] += own.double().cpu()
    if not seen:
        raise DataError("adoption: expected at least one view, got none.")
    return {n: t.float() for n, t in total.items()}


def as_cloud(expert: Expert, rows: Bool[Tensor, "n"], n_frames: int) -> PointCloud:
    """Some of an expert's Gaussians as points with looks: where they are in the middle of their lives, and how they drift.

    Times are weighted with a Gaussian's opacity. Drift is the slope of the line through its places; shape, colours and
    opacity are those of the frame where it is most opaque.
    """
    with torch.no_grad():
        course = [(g.means.double(), g.opacities.double()) for g in (expert.at(i / n_frames)[rows] for i in range(n_frames))]
        means, opacities = (torch.stack(each) for each in zip(*course, strict=True))
        looks = _at_their_best(expert, rows, opacities.argmax(0), n_frames)
    times = torch.arange(n_frames).to(opacities)[:, None] / n_frames
    weights = opacities / opacities.sum(0).clamp_min(1e-12)
    middle, centre = (weights * times).sum(0), (weights[..., None] * means).sum(0)
    lean = weights * (times - middle)
    variance = (lean * (times - middle)).sum(0)
    drift = (lean[..., None] * (means - centre)).sum(0) / variance.clamp_min(1e-9)[:, None]
    spans = (12 * variance).sqrt().clamp_min(1 / n_frames)  # as of times drawn evenly from a span
    spans = torch.where(spans > ALWAYS, 1.0, spans)
    points, times, spans, velocities = (x.to(looks.means) for x in (centre, middle, spans, drift))
    return PointCloud(points, to_rgb(looks.sh[:, 0]).clamp(0, 1), times, spans, velocities, looks)


def _at_their_best(expert: Expert, rows: Bool[Tensor, "n"], best: Int[Tensor, "m"], n_frames: int) -> Gaussians:
    """Each Gaussian as it is in a frame of its own, with quaternions and scales."""
    frames = [expert.at(int(f) / n_frames)[rows][best == f] for f in best.unique()]
    back = best.argsort(stable=True).argsort()
    return concatenate([_with_axes(replace(g, features=None, anchors=None)) for g in frames])[back]


def _with_axes(gaussians: Gaussians) -> Gaussians:
    if gaussians.quats is not None and gaussians.by_covar is None:
        return gaussians
    quats, scales = decompose(covariances(gaussians))
    return replace(gaussians, quats=quats, scales=scales, covars=None, by_covar=None)


def _alike(fresh: Params, own: Params, prior: Prior) -> Params:
    """Fresh Gaussians that can stand beside a student's own.

    Raises:
        ConfigError: they differ in more than their number.
    """
    for name, value in own.items():
        if population_of(name) is None:
            continue
        found = fresh.get(name)
        if found is None or found.shape[1:] != value.shape[1:]:
            what = "none" if found is None else str(list(found.shape[1:]))
            raise ConfigError(
                f"adoption: {name}: {prior.name} starts Gaussians with {what} values each, the student has "
                f"{list(value.shape[1:])}; distil without adopting (adopt = 0)."
            )
    return fresh
