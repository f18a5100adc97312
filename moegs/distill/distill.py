"""Stage 3: one expert learns from the mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moegs import deform
from moegs.data import Scene, View
from moegs.deform.prior import Prior
from moegs.distill.adopt import Release, adopt
from moegs.distill.loss import distillation_loss
from moegs.distill.novel import with_novel_views
from moegs.distill.teacher import Teacher, cache_teacher
from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians.params import Params, count
from moegs.io import digest
from moegs.route.mixture import Mixture, mixture_key
from moegs.train.fit import FitConfig, fit_expert
from moegs.train.losses import photometric_loss
from moegs.train.onward import unchanging
from moegs.train.views import sample_views

RANKED = 64  # views from which it is seen who comes and who goes
TRIED = 0.35  # of the steps, after which it is seen who of the student's own and of the others is missed least


@dataclass(frozen=True)
class DistillConfig:
    """How a student is taught.

    Attributes:
        weight: share of the photograph's term in the loss, lambda of MoE-GS §3.4.
        adopt: Gaussians of the other experts that a continuing student tries beside its own for the first 35 % of its
            steps, as a share of its own, see :func:`moegs.distill.adopt`; 0 in the paper. As many then go again.
        between: cameras, for each training camera, that are added between them, where the mixture's frames alone teach;
            none in the paper. Meant for few cameras, to which a student would fit too closely.
        fit: steps, seed, loss and, for a student from scratch, densification. A student that continues keeps its raster
            options, its background and its number of Gaussians.
    """

    weight: float = 0.5
    adopt: float = 0.5
    between: float = 0.0
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.adopt <= 1:
            raise ConfigError(f"distillation: expected adopt in [0, 1], a share of the student, got {self.adopt}.")
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"distillation: expected weight in [0, 1], got {self.weight}.")
        if not 0 <= self.between < math.inf:
            raise ConfigError(f"distillation: expected between ≥ 0, cameras for each one of the rig, got {self.between}.")


@dataclass(frozen=True)
class Student:
    """Who is taught.

    Attributes:
        prior: its motion prior.
        start: raw parameters to continue from, or None to start from the points.
        expert: the expert of the mixture whose gates apply, or None.
        fit: training settings that suit it.
    """

    prior: Prior
    start: Params | None
    expert: str | None
    fit: FitConfig


def student_of(
    mixture: Mixture, into: str, fit: FitConfig, *, n_frames: int, from_scratch: bool = False, expert: Expert | None = None
) -> Student:
    """The student that a name means: an expert of the mixture, or else a motion prior.

    A prior that one expert has means that expert. A prior that none has starts from scratch and is trusted one half
    everywhere. An ``expert`` goes on in the place of the mixture's own.

    Raises:
        ConfigError: the name is neither, several experts have the prior, or ``expert`` has another prior or nobody's place.
    """
    same = [name for name, e in mixture.experts.items() if e.prior.name == into]
    if into not in mixture.experts and len(same) > 1:
        raise ConfigError(f"distill: experts {', '.join(same)} all are {into!r}; name the one to teach.")
    name = into if into in mixture.experts else next(iter(same), None)
    if name is None and into not in deform.names():
        known = ", ".join([*mixture.experts, *deform.names()])
        raise ConfigError(f"distill: expected an expert or a motion prior to teach ({known}), got {into!r}.")
    prior = into if name is None else mixture.experts[name].prior.name
    if expert is not None and (name is None or expert.prior.name != prior):
        place = f"the mixture has no {into!r} whose place it could take" if name is None else f"expected prior {prior!r}"
        raise ConfigError(f"distill: an expert with prior {expert.prior.name!r} was given to go on with; {place}.")
    if name is None:
        return Student(deform.get(into).for_clip(n_frames), None, None, fit)
    expert = expert or mixture.experts[name]
    own = replace(fit, options=expert.options, background=expert.background)
    if from_scratch:
        return Student(expert.prior, None, name, own)
    return Student(expert.prior, expert.params, name, unchanging(own))


def distill(
    mixture: Mixture,
    scene: Scene,
    into: str,
    config: DistillConfig = DistillConfig(),
    *,
    cache: str | Path,
    out: str | Path | None = None,
    from_scratch: bool = False,
    expert: Expert | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Expert:
    """Train one expert on photographs where the mixture trusts it and on the mixture's frames elsewhere (MoE-GS §3.4).

    One that continues also tries Gaussians of the others beside its own for a while, and in the end has as many as it had
    (``config.adopt``). With ``config.between``, it also learns between the cameras, where the mixture's frames are all
    there is. Neither is in the paper.

    Args:
        mixture: the teacher; it stays as it is.
        scene: the clip that it was trained on.
        into: name of one of its experts, which then continues, or of a motion prior.
        config: loss and training.
        cache: folder for the teacher's frames and gates, see :func:`cache_teacher`.
        out: folder for checkpoint and metrics; nothing is written without it.
        from_scratch: start from the scene's points although the student is an expert of the mixture.
        expert: goes on instead of the mixture's own: the one before experts and router learned on together.
        resume: continue from the checkpoint in ``out``.
        progress: show bars.
    """
    student = student_of(mixture, into, config.fit, n_frames=scene.n_frames, from_scratch=from_scratch, expert=expert)
    start, release = _widened(mixture, scene, student, config)
    teacher = cache_teacher(mixture, scene, cache, expert=student.expert, progress=progress)
    novel = round(config.between * len(scene.train))
    wider = with_novel_views(scene, mixture, novel, cache, seed=config.fit.seed, progress=progress)
    lesson = Lesson(teacher, config, mixture_key(mixture), len(scene.cameras))
    taught = fit_expert(
        wider, student.prior, student.fit, start=start, start_as=_widened_from(student, release), loss=lesson,
        keep=release, device=mixture.device, out=out, resume=resume, progress=progress,
    )  # fmt: skip
    return replace(taught, meta=taught.meta | {"distilled from": list(mixture.experts), "weight": config.weight})


def _widened(
    mixture: Mixture, scene: Scene, student: Student, config: DistillConfig
) -> tuple[Params | None, Release | None]:
    """The student with those that it tries, and who lets the least of them all go."""
    if student.start is None or student.expert is None or not config.adopt:
        return student.start, None
    alone = Expert(student.prior, student.start, student.fit.options, student.fit.background, student.prior.decoder)
    seed, left = config.fit.seed, count(student.start)
    views, generator = sample_views(scene, RANKED, seed=seed), torch.Generator().manual_seed(seed)
    start = adopt(mixture, student.expert, alone, views, scene.n_frames, config.adopt, generator=generator)
    return start, Release(max(round(TRIED * config.fit.steps), 1), left, views, seed)


def _widened_from(student: Student, release: Release | None) -> Any:
    """What a widened student is known by: on a GPU it is never the same twice to the last bit. The lesson tells the rest."""
    return None if release is None or student.start is None else [student.expert, digest(student.start)]


@dataclass(frozen=True)
class Lesson:
    """The loss of one student: :func:`distillation_loss` to the photographs and one teacher's frames.

    At cameras that nobody photographed from it is :func:`moegs.train.photometric_loss` to the teacher's frame.

    Attributes:
        teacher: frames and gates.
        config: weight of the photograph's term and share of the structural one.
        mixture: what the teacher's mixture is known by, see :func:`mixture_key`.
        photographed: cameras below this index have photographs.
    """

    teacher: Teacher
    config: DistillConfig
    mixture: str
    photographed: int

    def __call__(self, image: Tensor, view: View) -> Tensor:
        if view.camera_index >= self.photographed:
            return photometric_loss(image, view.image, self.config.fit.lambda_dssim)
        frame = self.teacher.frame(view.camera_index, view.frame).to(image)
        gate = self.teacher.gate(view.camera_index, view.frame).to(image)
        return distillation_loss(image, view.image, frame, gate, self.config.weight, self.config.fit.lambda_dssim)

    @property
    def description(self) -> dict[str, Any]:
        """What must be the same to go on with a run."""
        config = self.config
        how = {"weight": config.weight, "adopt": config.adopt, "between": config.between}
        return {"name": "distillation", "mixture": self.mixture} | how


def retrain(
    mixture: Mixture,
    scene: Scene,
    into: str,
    config: DistillConfig = DistillConfig(),
    *,
    out: str | Path | None = None,
    from_scratch: bool = False,
    expert: Expert | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Expert:
    """The same student trained for as long on the photographs alone: what distillation has to beat."""
    student = student_of(mixture, into, config.fit, n_frames=scene.n_frames, from_scratch=from_scratch, expert=expert)
    return fit_expert(
        scene, student.prior, student.fit, start=student.start, device=mixture.device, out=out, resume=resume,
        progress=progress,
    )  # fmt: skip
