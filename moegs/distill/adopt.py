"""What a student takes over from the other experts: Gaussians that the mixture relies on, and who goes for them.

A picture teaches a student what a place looks like, not where it lacks Gaussians. The other experts have them there: their
places, drift, shapes and colours are things that any motion prior can start from. Who of them is better than what the
student has shows when both have learnt together for a while: then those that the picture misses least go, and the student
is as large as it was. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.data import View
from moegs.deform.prior import Prior
from moegs.errors import ConfigError, DataError
from moegs.expert import Expert
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, axes, concatenate
from moegs.gaussians.harmonics import to_rgb
from moegs.gaussians.params import Params, join, population_of, populations
from moegs.prune.scores import blend_sensitivity
from moegs.render.api import shares
from moegs.route.mixture import Mixture
from moegs.route.render import render_mixture
from moegs.route.routers import VolumePixelRouter

ALWAYS = 0.75  # of the clip: who is there for as long is there throughout


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
    """Raw parameters of a student with other experts' Gaussians beside its own.

    The first of the others come, by what they add to the blend: ``sum_{v,u} G_k T_i alpha_i`` with the gates of the
    mixture. Experts whose colours need decoding give none, and who is there only briefly goes to no prior that cannot
    fade. :class:`Release` makes the student as large again as it was.

    Args:
        mixture: whose gates count, and where the Gaussians come from.
        name: whose place is the student's.
        student: may have other Gaussians than the expert of that name.
        views: cameras and times over which Gaussians are ranked; the images are not used.
        n_frames: of the clip.
        share: as many at most as this fraction of the student's own.
        generator: for priors that start at random.
        backend: rasteriser.

    Raises:
        ConfigError: the student's tensors are not those that its prior starts Gaussians with.
        DataError: there are no views.
    """
    givers = {n: e for n, e in mixture.experts.items() if n != name and e.decoder is None}
    score = _gated_shares(mixture, givers, views, backend)
    if not student.prior.fades:
        for giver, e in givers.items():
            score[giver][_course(e, torch.ones(len(e), dtype=torch.bool), n_frames).spans < 1] = 0.0
    first = torch.cat([*score.values(), torch.zeros(0)]).sort(descending=True)
    n = min(int(share * len(student)), int((first.values > 0).sum()))
    chosen = torch.zeros(len(first.values), dtype=torch.bool)
    chosen[first.indices[:n]] = True
    parts = [student.params]
    for e, rows in zip(givers.values(), chosen.split([len(e) for e in givers.values()]), strict=True):
        if rows.any():
            parts.append(_started(student, as_cloud(e, rows, n_frames), n_frames, generator))
    return {k: v.detach().clone() for k, v in join(parts).items()}


@dataclass(frozen=True)
class Release:
    """Lets a student that adopted others go back to its size: asked after every step, see :func:`moegs.train.fit_expert`.

    Those go whose absence the picture notices least (:func:`moegs.prune.blend_sensitivity`), whoever they came from.

    Attributes:
        step: when.
        left: Gaussians that stay.
        views: on which the picture is looked at; the images are not used.
        seed: of the signs that the score draws.
    """

    step: int
    left: int
    views: Iterable[View]
    seed: int = 0

    def __call__(self, student: Expert, step: int) -> Bool[Tensor, "n"] | None:
        if step != self.step or len(student) <= self.left:
            return None
        router = VolumePixelRouter([len(student)], generator=torch.Generator().manual_seed(0))
        alone = Mixture({"student": student}, router.to(student.device))
        scores = blend_sensitivity(alone, self.views, seed=self.seed)
        mask = torch.zeros(len(student), dtype=torch.bool)
        mask[scores.cpu().sort(descending=True, stable=True).indices[: self.left]] = True
        return mask

    @property
    def description(self) -> dict[str, Any]:
        """What must be the same to go on with a run."""
        return {"name": "release", "step": self.step, "left": self.left, "seed": self.seed}


def _gated_shares(
    mixture: Mixture, experts: dict[str, Expert], views: Iterable[View], backend: str
) -> dict[str, Float[Tensor, "n"]]:
    """As :func:`moegs.route.fuse.contributions` has them, for some of the mixture's experts."""
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


class _Course(NamedTuple):
    """The lives of some Gaussians, weighted with their opacity, float64."""

    centre: Float[Tensor, "n 3"]
    drift: Float[Tensor, "n 3"]
    middle: Float[Tensor, "n"]
    spans: Float[Tensor, "n"]
    best: Int[Tensor, "n"]


def _course(expert: Expert, rows: Bool[Tensor, "n"], n_frames: int) -> _Course:
    n = int(rows.sum())
    weight, time, square, most = (torch.zeros(n, dtype=torch.float64) for _ in range(4))
    place, moment = (torch.zeros(n, 3, dtype=torch.float64) for _ in range(2))
    best = torch.zeros(n, dtype=torch.long)
    for frame in range(n_frames):
        with torch.no_grad():
            g, t = expert.at(frame / n_frames)[rows], frame / n_frames
        opacities, means = g.opacities.double().cpu(), g.means.double().cpu() * g.opacities.double().cpu()[:, None]
        best[opacities > most] = frame
        most = torch.maximum(most, opacities)
        weight, time, square = weight + opacities, time + opacities * t, square + opacities * t * t
        place, moment = place + means, moment + means * t
    weight = weight.clamp_min(1e-12)
    middle, centre = time / weight, place / weight[:, None]
    variance = (square / weight - middle.square()).clamp_min(0.0)
    drift = (moment / weight[:, None] - middle[:, None] * centre) / variance.clamp_min(1e-9)[:, None]
    spans = (12 * variance).sqrt().clamp_min(1 / n_frames)  # as of times drawn evenly from a span
    return _Course(centre, drift, middle, torch.where(spans > ALWAYS, 1.0, spans), best)


def as_cloud(expert: Expert, rows: Bool[Tensor, "n"], n_frames: int) -> PointCloud:
    """Some of an expert's Gaussians as points with looks: where they are in the middle of their lives, and how they drift.

    Times are weighted with a Gaussian's opacity. Drift is the slope of the line through its places; shape, colours and
    opacity are those of the frame where it is most opaque.
    """
    course = _course(expert, rows, n_frames)
    with torch.no_grad():
        looks = _at_their_best(expert, rows, course.best, n_frames).to(torch.float32).to("cpu")
    points, drift, times, spans = (x.float() for x in course[:4])
    return PointCloud(points, to_rgb(looks.sh[:, 0]).clamp(0, 1), times, spans, drift, looks)


def _at_their_best(expert: Expert, rows: Bool[Tensor, "n"], best: Int[Tensor, "m"], n_frames: int) -> Gaussians:
    """Each Gaussian as it is in a frame of its own, with quaternions and scales."""
    frames = [expert.at(int(f) / n_frames)[rows][best == f] for f in best.unique()]
    back = best.argsort(stable=True).argsort()
    return concatenate([_with_axes(replace(g, features=None, anchors=None)) for g in frames])[back]


def _with_axes(gaussians: Gaussians) -> Gaussians:
    quats, scales = (x.to(gaussians.means) for x in axes(gaussians))
    return replace(gaussians, quats=quats, scales=scales, covars=None, by_covar=None)


def _started(student: Expert, cloud: PointCloud, n_frames: int, generator: torch.Generator | None) -> Params:
    """Gaussians that look like the points beside the student's own, whose networks may move them.

    Raises:
        ConfigError: they differ from the student's in more than their number.
    """
    prior = student.prior.like(student.params)
    fresh = prior.init(cloud, generator)
    if foreign := sorted(p for p, n in populations(fresh).items() if n and p not in populations(student.params)):
        raise ConfigError(
            f"adoption: {prior.name} starts Gaussians of the {foreign[0]!r} population, the student has none of them; "
            "distil without adopting (adopt = 0)."
        )
    shared = {}
    for name, value in student.params.items():
        if population_of(name) is None:
            shared[name] = value
        elif (found := fresh.get(name)) is None or found.shape[1:] != value.shape[1:]:
            what = "none" if found is None else str(list(found.shape[1:]))
            raise ConfigError(
                f"adoption: {name}: {prior.name} starts Gaussians with {what} values each, the student has "
                f"{list(value.shape[1:])}; distil without adopting (adopt = 0)."
            )
        else:
            fresh[name] = found.to(value)
    with torch.no_grad():
        return prior.moved(fresh, _astray(prior, fresh | shared, cloud, n_frames))


def _astray(prior: Prior, params: Params, cloud: PointCloud, n_frames: int) -> Float[Tensor, "n 3"]:
    """From where Gaussians are in the middle of their lives to where their points are."""
    assert cloud.times is not None and cloud.velocities is not None  # an expert's have them
    frames, offsets = (cloud.times * n_frames).round(), torch.zeros_like(cloud.points)
    for frame in frames.unique():
        here, t = frames == frame, float(frame) / n_frames
        target = cloud.points[here] + (t - cloud.times[here])[:, None] * cloud.velocities[here]
        offsets[here] = target - prior.deform(params, t).means[here].to(target)
    return offsets
