"""Stage 2: learn the router over frozen experts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moegs.data import Scene
from moegs.errors import ConfigError, DivergenceError
from moegs.expert import Expert, expert_key
from moegs.io import digest
from moegs.metrics import psnr
from moegs.route.mixture import Mixture
from moegs.route.render import render_mixture
from moegs.route.routers import RouterConfig, VolumePixelRouter
from moegs.train._checks import at_least_one, at_least_zero
from moegs.train._loop import Pace, run_folder, train_loop
from moegs.train.checkpoint import NAME, Checkpoint, all_moments, load_checkpoint, restoring, same_kind
from moegs.train.determinism import repeatable
from moegs.train.losses import photometric_loss
from moegs.train.views import ViewOrder, scene_description, training_order, view_at


@dataclass(frozen=True)
class RouteConfig:
    """How the router is trained.

    Attributes:
        router: shape of the router.
        steps: optimisation steps, one view each.
        lr_weights: RAdam rate of base and view weights.
        lr_time: RAdam rate of time weights.
        lr_network: RAdam rate of the pixel network.
        decay: rates fall log-linearly to this fraction of themselves.
        temperatures: the first and the last that the softmax has while the router learns, log-linear between them: from warm
            to cold lets all experts be tried before one is chosen. None of them: the router's own throughout
            (:attr:`moegs.route.RouterConfig.temperature`), which is also what is rendered with afterwards. The released
            code trains at 0.01 throughout and renders at 1.
        lambda_dssim: share of the structural term in the loss.
        seed: orders the views and starts the network.
        checkpoint_every: steps between checkpoints.
    """

    router: RouterConfig = RouterConfig()
    steps: int = 1500
    lr_weights: float = 0.5
    lr_time: float = 0.05
    lr_network: float = 0.05
    decay: float = 0.1
    temperatures: tuple[float, ...] = ()
    lambda_dssim: float = 0.2
    seed: int = 0
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "checkpoint_every")
        at_least_zero(self, "lr_weights", "lr_time", "lr_network")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"router: expected decay in (0, 1], got {self.decay}.")
        numbers = all(isinstance(t, int | float) and 0 < t < math.inf for t in self.temperatures)
        if len(self.temperatures) not in (0, 2) or not numbers:
            raise ConfigError(
                f"router: expected temperatures to be none or two numbers above 0, got {list(self.temperatures)}."
            )

    def temperature(self, step: int) -> float:
        """Of the softmax at a step."""
        if not self.temperatures:
            return self.router.temperature
        first, last = self.temperatures
        return first * (last / first) ** (step / max(self.steps - 1, 1))


@dataclass
class _Run:
    mixture: Mixture
    optimizer: torch.optim.RAdam
    description: dict[str, Any]
    step: int = 0


def fit_router(
    scene: Scene,
    experts: dict[str, Expert],
    config: RouteConfig = RouteConfig(),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    start: VolumePixelRouter | None = None,
    progress: bool = True,
) -> Mixture:
    """Train the router; the experts stay as they are.

    Args:
        scene: the clip that the experts were trained on.
        experts: frozen experts by name; their order is the order of the gates.
        config: router shape, rates and length.
        out: folder for ``checkpoint.safetensors`` and ``metrics.jsonl``; nothing is written without it.
        resume: continue from the folder's checkpoint, on the CPU bit for bit with as many threads on the same machine.
        cameras: train on these cameras only (stacking: cameras that the experts never saw).
        start: a router to continue from, for a short refit after pruning.
        progress: show a bar.

    Raises:
        DivergenceError: the loss or a gradient is not finite; the message names it and the step, the checkpoint stays.
        ConfigError: the checkpoint was written by a run with other settings, ``start`` has another shape, or there is
            no ``out`` to resume in.
    """
    folder = run_folder(out, resume)
    order = training_order(scene, config.seed, cameras)
    frozen = {n: Expert(e.prior, {k: v.detach() for k, v in e.params.items()}, e.options, e.background, e.decoder, e.meta)
              for n, e in experts.items()}  # fmt: skip
    pace = Pace("router", config.steps, 25, config.checkpoint_every)
    with repeatable():
        run = _begin(scene, frozen, config, order, start, folder if resume else None)
        train_loop(
            run, pace, lambda shown: _step(scene, config, order, run, shown), lambda: _snapshot(run),
            folder=folder, resume=resume, progress=progress,
        )  # fmt: skip
    return run.mixture


def _begin(
    scene: Scene, experts: dict[str, Expert], config: RouteConfig, order: ViewOrder, start: VolumePixelRouter | None,
    folder: Path | None,
) -> _Run:  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    centre = torch.stack([scene.cameras[i].centre for i in scene.train]).mean(0)
    router = VolumePixelRouter(
        [len(e) for e in experts.values()], config.router, centre.tolist(), scene.spread, generator
    ).to(next(iter(experts.values())).device)
    if start is not None:
        same, other = ({k: tuple(v.shape) for k, v in r.state_dict().items()} for r in (router, start))
        if differs := [k for k in same | other if same.get(k) != other.get(k)]:
            has, lacks = other.get(differs[0], "none"), same.get(differs[0], "none")
            raise ConfigError(f"start: {differs[0]}: expected {lacks} for these experts and config.router, got {has}.")
        router.load_state_dict(start.state_dict())
    mixture = Mixture(experts, router)
    run = _Run(mixture, router_optimizer(router, config), _describe(scene, mixture, config, order))
    path = None if folder is None else folder / NAME
    if path is not None and path.exists():
        with restoring(path.parent):
            _restore(run, load_checkpoint(path, run.description))
    return run


def router_optimizer(router: VolumePixelRouter, config: RouteConfig) -> torch.optim.RAdam:
    """RAdam over the router's parts; each group keeps its full rate as ``rate``."""
    return torch.optim.RAdam(
        [
            {"params": [router.base, router.view], "rate": config.lr_weights, "lr": 0.0},
            {"params": [router.time], "rate": config.lr_time, "lr": 0.0},
            {"params": list(router.layers), "rate": config.lr_network, "lr": 0.0},
        ]
    )


def _describe(scene: Scene, mixture: Mixture, config: RouteConfig, order: ViewOrder) -> dict[str, Any]:
    """What must be the same to resume: of a mixture whose router has not learnt yet, experts and router included."""
    return {
        "scene": scene_description(scene),
        "route": asdict(config),
        "cameras": order.cameras,
        "experts": list(mixture.experts),
        "models": {name: expert_key(e) for name, e in mixture.experts.items()},
        "router": digest(mixture.router.state_dict()),
    }


def router_state(router: VolumePixelRouter, optimizer: torch.optim.RAdam) -> dict[str, Tensor]:
    """Tensors of a router and of its optimiser, as checkpoints keep them."""
    tensors = {f"router/{k}": v for k, v in router.state_dict().items()}
    for name, parameter in router.named_parameters():
        tensors |= {f"radam/{name}/{k}": v for k, v in optimizer.state[parameter].items()}
    return tensors


def restore_router(router: VolumePixelRouter, optimizer: torch.optim.RAdam, saved: Checkpoint) -> None:
    """Take over what :func:`router_state` gave."""
    for name, like in router.state_dict().items():
        same_kind(name, saved.tensors[f"router/{name}"], like)
    router.load_state_dict(saved.part("router"))
    named = dict(router.named_parameters())
    for key, value in saved.part("radam").items():
        name, _, moment = key.rpartition("/")
        same_kind(key, value, torch.zeros(()) if moment == "step" else named[name])
        optimizer.state[named[name]][moment] = value if moment == "step" else value.to(named[name].device)
    all_moments({name: optimizer.state[p] for name, p in named.items()})


def _snapshot(run: _Run) -> Checkpoint:
    return Checkpoint(run.step, router_state(run.mixture.router, run.optimizer), run.description)


def _restore(run: _Run, saved: Checkpoint) -> None:
    restore_router(run.mixture.router, run.optimizer, saved)
    run.step = saved.step


def _step(scene: Scene, config: RouteConfig, order: ViewOrder, run: _Run, shown: bool) -> dict[str, float]:
    """One view; returns figures where they are shown."""
    view = view_at(scene, order, run.step, run.mixture.device)
    image = render_mixture(run.mixture, view.camera, view.time, temperature=config.temperature(run.step)).color
    loss = photometric_loss(image, view.image, config.lambda_dssim)
    if not torch.isfinite(loss):
        raise DivergenceError(f"the router's loss is not finite at step {run.step}; the last checkpoint is intact.")
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    router_step(run.mixture.router, run.optimizer, config.decay ** (run.step / config.steps), run.step)
    return {"loss": loss.item(), "psnr": psnr(image.detach().clamp(0, 1), view.image)} if shown else {}


def router_step(router: VolumePixelRouter, optimizer: torch.optim.RAdam, scale: float, step: int) -> None:
    """Apply the gradients that lie on the router, at ``scale`` times the full rates.

    Raises:
        DivergenceError: a gradient is not finite; nothing was changed.
    """
    for name, parameter in router.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise DivergenceError(
                f"gradient of the router's {name!r} is not finite at step {step}; the last checkpoint is intact. "
                "Start anew in another folder with a lower rate or another seed."
            )
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * scale
    optimizer.step()
