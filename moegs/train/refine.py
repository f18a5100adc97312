"""Stage 3, beyond the paper: experts and router learn on together, through the blend that they are for.

Experts that were trained alone each spend Gaussians on what another draws better. A short run on the blended picture lets
each give that up for what it is trusted with. Their numbers of Gaussians stay.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moegs.data import Scene
from moegs.errors import ConfigError, DivergenceError
from moegs.expert import Expert
from moegs.metrics import psnr
from moegs.route.mixture import Mixture, mixture_key
from moegs.route.render import render_mixture
from moegs.train._checks import at_least_one, at_least_zero
from moegs.train._loop import Pace, run_folder, train_loop
from moegs.train.average import Average
from moegs.train.checkpoint import NAME, Checkpoint, load_checkpoint, restoring, same_kind
from moegs.train.determinism import repeatable
from moegs.train.losses import photometric_loss
from moegs.train.optimizer import ParamsAdam
from moegs.train.route import RouteConfig, restore_router, router_optimizer, router_state, router_step
from moegs.train.views import ViewOrder, scene_description, training_order, view_at

LATE = 0.75  # experts go on with the rates that their schedules have here


@dataclass(frozen=True)
class RefineConfig:
    """How long and how fast experts and router learn on.

    Attributes:
        steps: optimisation steps, one view each.
        expert_rate: factor on the experts' learning rates as they are late in their schedules: large enough to give up
            what another expert draws better.
        router_rate: factor on the router's rates (:class:`moegs.train.RouteConfig`).
        decay: all rates fall log-linearly to this fraction of themselves.
        average: the result is the mean over this last part of the run, which lets rates stay large; 0 for the last state.
            Every fifth state counts.
        expert_dropout: chance that a step goes without one of the experts, drawn at random, whose part the others' gates
            share out; None for what suits the number of photographs (:func:`usual_dropout`).
        lambda_dssim: share of the structural term in the loss.
        seed: orders the views, and draws who is left out.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 600
    expert_rate: float = 2.0
    router_rate: float = 0.2
    decay: float = 0.3
    average: float = 0.5
    expert_dropout: float | None = None
    lambda_dssim: float = 0.2
    seed: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "checkpoint_every")
        at_least_zero(self, "expert_rate", "router_rate")
        if not (0 <= self.average <= 1 and 0 < self.decay <= 1):
            raise ConfigError(
                f"refinement: expected average in [0, 1] and decay in (0, 1], got {self.average} and {self.decay}."
            )
        if self.expert_dropout is not None and not 0 <= self.expert_dropout <= 1:
            raise ConfigError(f"refinement: expected expert_dropout in [0, 1] or None, got {self.expert_dropout}.")


def usual_dropout(steps: int, photographs: int) -> float:
    """Chance to leave an expert out: 0 where a run sees each photograph three times or less, 0.5 from twelve times on.

    Experts that learn together cancel each other's errors on photographs that they see again and again, which does not hold
    between the cameras; where photographs are many, leaving experts out only slows them down.

    Example:
        >>> usual_dropout(2_500, photographs=19 * 300), usual_dropout(2_500, photographs=15 * 12)
        (0.0, 0.5)
    """
    return 0.5 * min(max((steps / photographs - 3) / 9, 0.0), 1.0)


@dataclass
class _Run:
    mixture: Mixture
    experts: dict[str, ParamsAdam]
    router: torch.optim.RAdam
    description: dict[str, Any]
    average: Average
    step: int = 0

    def current(self) -> Mixture:
        """The mixture with the tensors as they stand."""
        experts = {n: replace(e, params=self.experts[n].params) for n, e in self.mixture.experts.items()}
        return Mixture(experts, self.mixture.router)

    def learnt(self) -> dict[str, Tensor]:
        """All tensors that are trained, as they stand."""
        experts = {f"{i}/{k}": v for i, adam in enumerate(self.experts.values()) for k, v in adam.params.items()}
        router = {f"router/{k}": v for k, v in self.mixture.router.named_parameters()}
        return {k: v for k, v in (experts | router).items() if v.requires_grad}

    def result(self) -> Mixture:
        """The mixture with the means in the place of the last tensors."""
        learnt = self.learnt()
        with torch.no_grad():
            for name, mean in self.average.mean.items():
                learnt[name].copy_(mean)
        return self.current()


def refine_mixture(
    scene: Scene,
    mixture: Mixture,
    config: RefineConfig = RefineConfig(),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> Mixture:
    """Train experts and router together; the mixture that is given stays as it is.

    Args:
        scene: the clip that the experts were trained on.
        mixture: experts and router that were trained one after the other.
        config: rates and length.
        out: folder for ``checkpoint.safetensors`` and ``metrics.jsonl``; nothing is written without it.
        resume: continue from the folder's checkpoint, on the CPU bit for bit with as many threads on the same machine.
        cameras: train on these cameras only.
        progress: show a bar.

    Raises:
        DivergenceError: the loss or a gradient is not finite; the message names it and the step, the checkpoint stays.
        ConfigError: the checkpoint was written by a run with other settings, or there is no ``out`` to resume in.
    """
    folder = run_folder(out, resume)
    order = training_order(scene, config.seed, cameras)
    if config.expert_dropout is None:
        config = replace(config, expert_dropout=usual_dropout(config.steps, len(order)))
    pace = Pace("refinement", config.steps, 25, config.checkpoint_every)
    with repeatable():
        run = _begin(scene, mixture, config, order, folder if resume else None)
        train_loop(
            run, pace, lambda shown: _step(scene, config, order, run, shown), lambda: _snapshot(run),
            folder=folder, resume=resume, progress=progress,
        )  # fmt: skip
    result = run.result()
    return Mixture({name: _finished(e, config.steps) for name, e in result.experts.items()}, result.router)


def _begin(scene: Scene, mixture: Mixture, config: RefineConfig, order: ViewOrder, folder: Path | None) -> _Run:
    router = mixture.router.copied()
    experts = {n: ParamsAdam(e.params, e.prior.param_groups(e.params, scene.extent)) for n, e in mixture.experts.items()}
    description = {
        "scene": scene_description(scene), "refine": asdict(config), "cameras": order.cameras,
        "experts": list(mixture.experts), "mixture": mixture_key(mixture),
    }  # fmt: skip
    average = Average.over(config.average, config.steps)
    run = _Run(Mixture(mixture.experts, router), experts, router_optimizer(router, RouteConfig()), description, average)
    path = None if folder is None else folder / NAME
    if path is not None and path.exists():
        with restoring(path.parent):
            _restore(run, load_checkpoint(path, description))
    return run


def _snapshot(run: _Run) -> Checkpoint:
    tensors = router_state(run.mixture.router, run.router)
    for i, adam in enumerate(run.experts.values()):
        tensors |= {f"params/{i}/{k}": v for k, v in adam.params.items()}
        for name, moments in adam.state().items():
            tensors |= {f"adam/{i}/{name}/{k}": v for k, v in moments.items()}
    tensors |= {f"mean/{k}": v for k, v in run.average.mean.items()}
    return Checkpoint(run.step, tensors, run.description)


def _restore(run: _Run, saved: Checkpoint) -> None:
    restore_router(run.mixture.router, run.router, saved)
    for i, adam in enumerate(run.experts.values()):
        params = saved.part(f"params/{i}")
        for name, like in adam.params.items():
            same_kind(name, params[name], like)
        adam.load({name: params[name].to(like.device) for name, like in adam.params.items()}, saved.moments(f"adam/{i}"))
    run.step, learnt = saved.step, run.learnt()
    if run.average.first <= saved.step:
        run.average.mean = {name: saved.tensors[f"mean/{name}"].to(like.device) for name, like in learnt.items()}
        for name, mean in run.average.mean.items():
            same_kind(name, mean, learnt[name])


def _step(scene: Scene, config: RefineConfig, order: ViewOrder, run: _Run, shown: bool) -> dict[str, float]:
    view = view_at(scene, order, run.step, run.mixture.device)
    mixture = run.current()
    without = _left_out(config, list(mixture.experts), run.step)
    image = render_mixture(mixture, view.camera, view.time, without=without).color
    loss = photometric_loss(image, view.image, config.lambda_dssim)
    drawn = [e for name, e in mixture.experts.items() if name not in without]
    loss = loss + sum(e.prior.regularise(e.params, view.time) for e in drawn)
    if not torch.isfinite(loss):
        raise DivergenceError(f"the mixture's loss is not finite at step {run.step}; the last checkpoint is intact.")
    run.router.zero_grad(set_to_none=True)
    loss.backward()
    done = run.step / config.steps
    for adam in run.experts.values():
        adam.step(LATE + (1 - LATE) * done, run.step, config.expert_rate * config.decay**done)
    router_step(mixture.router, run.router, config.router_rate * config.decay**done, run.step)
    run.average.take(run.step + 1, run.learnt())
    return {"loss": loss.item(), "psnr": psnr(image.detach().clamp(0, 1), view.image)} if shown else {}


def _left_out(config: RefineConfig, names: list[str], step: int) -> tuple[str, ...]:
    """Who is not drawn in a step; depends on nothing but the seed and the step, as the order of views does."""
    if len(names) < 2 or not config.expert_dropout:
        return ()
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
    chance, chosen = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return (names[int(chosen * len(names))],) if chance < config.expert_dropout else ()


def _finished(expert: Expert, steps: int) -> Expert:
    params = {k: v.detach().clone() for k, v in expert.params.items()}
    before = expert.meta.get("refine steps", 0)
    return replace(expert, params=params, meta=expert.meta | {"refine steps": before + steps})
