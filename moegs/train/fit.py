"""Stage 1: train one expert on a scene."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from moegs.data import Scene, View
from moegs.data.surface import SurfaceConfig, surface_points
from moegs.data.sweep import SweepConfig, with_moving_points
from moegs.deform.prior import Prior, to_config
from moegs.errors import ConfigError, DivergenceError
from moegs.expert import Expert, render_expert
from moegs.gaussians import densify
from moegs.gaussians.cloud import PointCloud, drawn, joined
from moegs.gaussians.container import Gaussians
from moegs.gaussians.densify import DensifyRule
from moegs.gaussians.params import Params, count, join, population_of, populations
from moegs.io import digest
from moegs.metrics import psnr
from moegs.render.types import RasterOptions
from moegs.train._checks import at_least_one
from moegs.train._loop import Pace, run_folder, train_loop
from moegs.train.checkpoint import NAME, Checkpoint, load_checkpoint, restoring, same_kind
from moegs.train.determinism import repeatable
from moegs.train.idle import coloured, giving_way
from moegs.train.losses import photometric_loss
from moegs.train.optimizer import ParamsAdam
from moegs.train.views import ViewOrder, scene_description, training_order, view_at

ImageLoss = Callable[[Tensor, View], Tensor]
Selection = Callable[[Expert, int], Bool[Tensor, "n"] | None]

MOMENTS = 8  # at which a Gaussian may be opaque enough to stay
RANKED = 32  # views in which it is seen who colours little
ANY = PointCloud(torch.eye(3), torch.zeros(3, 3))  # to see which tensors a prior has
COLD = 0.05  # of its schedule is left of every learning rate at the end
ANTIALIASED = RasterOptions(eps2d=0.1, compensate=True)
"""A low-pass filter about as wide as a pixel, under which no Gaussian is brighter than it is (Mip-Splatting, Yu et al., CVPR
2024; Ex4DGS and the released stage 2 of MoE-GS draw like this). 3D Gaussian Splatting's own (``RasterOptions()``) is wider
and uncompensated, which costs texture as fine as pixels."""


@dataclass(frozen=True)
class FitConfig:
    """How long and how an expert is trained. Fractions are of the whole run.

    Attributes:
        steps: optimisation steps, one view each.
        lambda_dssim: share of the structural term in the loss.
        densify: when Gaussians grow and die.
        densify_every: steps between edits.
        densify_from: fraction of the run at which growth begins.
        densify_until: fraction at which it ends; faint Gaussians are removed until the last twentieth.
        idle: largest fraction of the Gaussians that give way, while growth lasts, to those that it has no room for: the
            ones that colour least of the pictures (:mod:`moegs.train.idle`). 0 keeps all that are not faint.
        idle_every: fraction of the run from one such change to the next; the first comes two of them after growth begins.
        sh_every: fraction of the run after which the harmonics gain a degree.
        cooldown: last fraction of the run, in which all learning rates fall log-linearly to a twentieth, so that the noise
            of single views averages out.
        background: colour behind everything.
        options: low-pass filter, compensation, near and far; :data:`ANTIALIASED` by default.
        sweep: how points are found for what moves or appears later (:func:`moegs.data.with_moving_points`); None looks for
            none.
        surface: how more points are found on what stands still (:func:`moegs.data.surface_points`); None looks for none.
        filled: fraction of the Gaussians that there may be (``densify.max_gaussians``) up to which these are added to the
            capture's points. Beside them there are at most as large a part of it of moving points as of the pixels
            ever changes. A capture with more points than there is room for is thinned at random.
        seed: orders the views and all randomness.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 6000
    lambda_dssim: float = 0.2
    densify: DensifyRule = field(default_factory=DensifyRule)
    densify_every: int = 100
    densify_from: float = 0.05
    densify_until: float = 0.4
    idle: float = 0.1
    idle_every: float = 0.05
    sh_every: float = 0.15
    cooldown: float = 0.3
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    options: RasterOptions = ANTIALIASED
    sweep: SweepConfig | None = field(default_factory=SweepConfig)
    surface: SurfaceConfig | None = field(default_factory=SurfaceConfig)
    filled: float = 0.67
    seed: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "densify_every", "checkpoint_every")
        if not (0 <= self.idle < 1 and 0 < self.idle_every <= 1):
            raise ConfigError(
                f"FitConfig: expected idle in [0, 1) and idle_every in (0, 1], got {self.idle} and {self.idle_every}."
            )
        if not 0 <= self.filled <= 1:
            raise ConfigError(f"FitConfig: expected filled in [0, 1], got {self.filled}.")


@dataclass
class _Run:
    """Everything that changes while an expert trains."""

    optimizer: ParamsAdam
    grad_sum: Tensor
    seen: Tensor
    generator: torch.Generator
    description: dict[str, Any]
    loss: ImageLoss
    keep: Selection | None = None
    continued: bool = False
    standing: int = 0  # Gaussians on what stands still that it began with
    step: int = 0

    def stage(self, steps: int) -> int:
        """The step that coarse-to-fine schedules go by: a continued run has been through them."""
        return steps if self.continued else self.step


def fit_expert(
    scene: Scene,
    prior: Prior,
    config: FitConfig = FitConfig(),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    cameras: tuple[int, ...] | None = None,
    start: Params | None = None,
    start_as: Any = None,
    loss: ImageLoss | None = None,
    keep: Selection | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Expert:
    """Train one expert.

    Args:
        scene: what to learn.
        prior: the motion prior and its hyper-parameters.
        config: length, densification, losses.
        out: folder for ``checkpoint.safetensors`` and ``metrics.jsonl``; nothing is written without it.
        resume: continue from the folder's checkpoint, on the CPU bit for bit with as many threads on the same machine.
        cameras: training cameras to use instead of all of them.
        start: raw parameters to continue from instead of the scene's points; harmonics and coarse-to-fine stages of the
            prior are then complete from the first step.
        start_as: what ``start`` is known by, JSON-ready, which must be the same to resume; its bytes if None. For a start
            that is worked out anew and may differ in its last bits.
        loss: from render ``[h, w, 3]`` and view to a scalar, instead of :func:`photometric_loss` to the photograph. Its
            attribute ``description``, or else its name, goes into the expert's ``meta["loss"]``, and must be the same
            to resume.
        keep: asked after every step, with the expert as it stands and the number of steps done; it gives a mask
            ``[n]`` of the Gaussians that stay, or None for all of them. Like the loss, it has a ``description`` or a name.
        device: where it trains and the expert is in the end; None for that of ``start``, or else the CPU. Views come to
            the loss there. Points are looked for on the CPU, and what is random is drawn there.
        progress: show a bar.

    Raises:
        DivergenceError: a loss or gradient is not finite; the message names it and the step, the checkpoint stays.
        ConfigError: the checkpoint was written by a run with other settings, or there is no ``out`` to resume in.
    """
    folder = run_folder(out, resume)
    order = training_order(scene, config.seed, cameras)
    pace = Pace(prior.name, config.steps, 50, config.checkpoint_every)
    with repeatable():
        asked = _describe(scene, prior, config, order, start, start_as, loss, keep)
        run = _begin(scene, prior, config, order, start, loss, keep, asked, folder if resume else None, device, progress)

        def step(shown: bool) -> dict[str, Any]:
            return _step(scene, prior.at_step(run.stage(config.steps), config.steps), config, order, run, shown)

        train_loop(run, pace, step, lambda: _snapshot(run), folder=folder, resume=resume, progress=progress)
    expert = _expert(prior.at_step(config.steps, config.steps), run.optimizer.params, config, scene, order.cameras)
    return replace(expert, meta=expert.meta | {"loss": "photometric" if loss is None else described(loss)})


def described(function: Callable[..., Any]) -> Any:
    """What a loss or a selection says of itself in ``description``, JSON-ready, or else its name."""
    named = f"{type(function).__module__}.{type(function).__qualname__}"
    return getattr(function, "description", getattr(function, "__qualname__", named))


def _describe(
    scene: Scene, prior: Prior, config: FitConfig, order: ViewOrder, start: Params | None, start_as: Any,
    loss: ImageLoss | None, keep: Selection | None,
) -> dict[str, Any]:  # fmt: skip
    continued = {} if start is None else {"start": digest(start) if start_as is None else start_as}
    own = {name: described(given) for name, given in (("loss", loss), ("keep", keep)) if given is not None}
    return continued | own | {
        "scene": scene_description(scene), "prior": prior.name, "hyper-parameters": to_config(prior),
        "fit": asdict(config), "cameras": order.cameras,
    }  # fmt: skip


def _begin(
    scene: Scene, prior: Prior, config: FitConfig, order: ViewOrder, start: Params | None, loss: ImageLoss | None,
    keep: Selection | None, asked: dict[str, Any], folder: Path | None, device: torch.device | str | None, progress: bool,
) -> _Run:  # fmt: skip
    path = None if folder is None else folder / NAME
    saved = load_checkpoint(path, asked) if path is not None and path.exists() else None
    generator, standing = torch.Generator().manual_seed(config.seed), 0 if start is None else count(start)
    if saved is not None and folder is not None:
        with restoring(folder):
            params = _saved_params(saved, prior.init(ANY, torch.Generator()) if start is None else start)
    elif start is None:
        cloud, standing = _cloud(scene, config, order, progress)
        params = prior.init(cloud, generator)
    else:
        params = start
    place = device or next(iter((start or params).values())).device
    params = {name: value.to(place) for name, value in params.items()}
    nothing = torch.zeros(count(params), device=place)
    run = _Run(
        ParamsAdam(params, prior.param_groups(params, scene.extent)), nothing, nothing.clone(), generator, asked,
        loss or (lambda image, view: photometric_loss(image, view.image, config.lambda_dssim)), keep, start is not None,
        standing,
    )  # fmt: skip
    if saved is not None and folder is not None:
        with restoring(folder):
            _restore(run, saved)
    return run


def _cloud(scene: Scene, config: FitConfig, order: ViewOrder, progress: bool) -> tuple[PointCloud, int]:
    """Where a run begins, and how many of the points stand still."""
    look: dict[str, Any] = {"cameras": order.cameras, "progress": progress}
    cap, places = config.densify.max_gaussians, round(config.filled * config.densify.max_gaussians)
    cloud, own = scene.cloud, len(scene.cloud)
    if config.sweep is not None:
        cloud = with_moving_points(scene, config.sweep, places=places, **look)
    if len(cloud) > cap:
        moving = cloud[own:]
        own = min(own, max(cap - len(moving), 0))
        thinned = drawn(scene.cloud, own, config.seed)
        cloud = joined(thinned, moving) if len(moving) else thinned
    lacking = min(places - own, cap - len(cloud))
    if config.surface is None or lacking <= 0:
        return cloud, own
    found = drawn(surface_points(scene, config.surface, **look), lacking, config.seed)
    return joined(cloud, found), own + len(found)


def _saved_params(saved: Checkpoint, like: Params) -> Params:
    """The checkpoint's parameters, held against those of a fresh run."""
    params = saved.part("params")
    sizes = populations(params)
    for name, fresh in like.items():
        population = population_of(name)
        same_kind(name, params[name], fresh, None if population is None else sizes[population])
    return {name: params[name] for name in like}


def _restore(run: _Run, saved: Checkpoint) -> None:
    for name in ("stats/grad_sum", "stats/seen"):
        same_kind(name, saved.tensors[name], torch.zeros(count(run.optimizer.params)))
    same_kind("stats/standing", saved.tensors["stats/standing"], torch.zeros((), dtype=torch.int64))
    same_kind("rng", saved.tensors["rng"], run.generator.get_state())
    run.optimizer.load(run.optimizer.params, saved.moments("adam"))
    run.grad_sum, run.seen = (saved.tensors[f"stats/{name}"].to(run.seen.device) for name in ("grad_sum", "seen"))
    run.generator.set_state(saved.tensors["rng"])
    run.standing, run.step = int(saved.tensors["stats/standing"]), saved.step


def _snapshot(run: _Run) -> Checkpoint:
    tensors = {f"params/{k}": v for k, v in run.optimizer.params.items()}
    for name, moments in run.optimizer.state().items():
        tensors |= {f"adam/{name}/{k}": v for k, v in moments.items()}
    tensors |= {"stats/grad_sum": run.grad_sum, "stats/seen": run.seen, "rng": run.generator.get_state()}
    tensors["stats/standing"] = torch.tensor(run.standing)
    return Checkpoint(run.step, tensors, run.description)


def _step(
    scene: Scene, prior: Prior, config: FitConfig, order: ViewOrder, run: _Run, shown: bool
) -> dict[str, Any]:  # fmt: skip
    """One view; returns figures where they are shown."""
    view = view_at(scene, order, run.step, run.seen.device)
    params = run.optimizer.params
    growing = run.step < config.densify_until * config.steps
    probe = torch.zeros(count(params), 2, device=run.seen.device, requires_grad=True) if growing else None
    expert = _Truncated.make(prior, params, config, run.stage(config.steps))
    render = render_expert(expert, view.camera, view.time, camera_index=view.camera_index, probe=probe)
    loss = run.loss(render.color, view) + prior.regularise(params, view.time)
    if not torch.isfinite(loss):
        raise DivergenceError(_diagnose(params, run.step))
    loss.backward()
    if probe is not None:
        assert probe.grad is not None
        _accumulate(run, probe.grad, render.radii, view)
    run.optimizer.step(run.step / config.steps, run.step, _cooled(run.step / config.steps, config.cooldown))
    _edit(scene, prior, config, order, run, view)
    _select(prior, config, run)
    quality = psnr(render.color.detach().clamp(0, 1), view.image) if shown else None
    return {"loss": loss.item(), "psnr": quality, "gaussians": len(expert)} if shown else {}


@dataclass(frozen=True, repr=False)
class _Truncated(Expert):
    """An expert that shows only the harmonics up to the degree that training has reached."""

    degree: int = 3

    @classmethod
    def make(cls, prior: Prior, params: Params, config: FitConfig, step: int) -> _Truncated:
        degree = 3 if config.sh_every <= 0 else int(step / (config.sh_every * config.steps))
        return cls(prior, params, config.options, config.background, prior.decoder, {}, degree)

    def at(self, t: float | Tensor, camera: int | None = None) -> Gaussians:
        whole = super().at(t, camera)
        return replace(whole, sh=whole.sh[:, : (min(self.degree, whole.sh_degree) + 1) ** 2])


def _diagnose(params: Params, step: int) -> str:
    broken = [k for k, v in params.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    what = f"params[{broken[0]!r}]" if broken else "the loss"
    advice = "Start anew in another folder with a lower learning rate."
    return f"{what} is not finite at step {step}; the last checkpoint is intact. {advice}"


def _all_gone(step: int, rule: DensifyRule, extent: float) -> str:
    return (
        f"every Gaussian became too faint, too large or infinite by step {step}; the last checkpoint, if any, is intact. "
        f"Check the capture (moegs data check): Gaussians larger than {rule.max_size:g} times its extent of {extent:.3g} "
        "are removed. Or lower the learning rates."
    )


def _accumulate(run: _Run, grad: Tensor, radii: Tensor, view: View) -> None:
    """Image-plane gradients in units of half the image, as the INRIA code measures them."""
    half = grad.new_tensor([view.camera.width, view.camera.height]) / 2
    run.grad_sum += torch.linalg.vector_norm(grad * half, dim=1)
    run.seen += (radii[:, 0] > 0).float()


def _edit(scene: Scene, prior: Prior, config: FitConfig, order: ViewOrder, run: _Run, view: View) -> None:
    done = run.step + 1
    if done % config.densify_every or done >= 0.95 * config.steps or done < config.densify_from * config.steps:
        return
    with torch.no_grad():
        params = {k: v.detach() for k, v in run.optimizer.params.items()}
        if done < config.densify_until * config.steps:
            params = _without_idle(params, scene, prior, config, order, run)
            params = _grow(params, scene, prior, config, run, view)
        keep = _healthy(params, scene, prior, config, run, view)
        if not keep.any():
            raise DivergenceError(_all_gone(run.step, config.densify, scene.extent))
        run.optimizer.replace(*densify.keep(params, keep))
    run.grad_sum, run.seen = run.seen.new_zeros(int(keep.sum())), run.seen.new_zeros(int(keep.sum()))


def _select(prior: Prior, config: FitConfig, run: _Run) -> None:
    if run.keep is None:
        return
    params = {k: v.detach() for k, v in run.optimizer.params.items()}
    mask = run.keep(Expert(prior, params, config.options, config.background, prior.decoder), run.step + 1)
    if mask is None:
        return
    if not mask.any():
        raise DivergenceError(f"keep: nobody was to stay at step {run.step}; the last checkpoint is intact.")
    run.optimizer.replace(*densify.keep(params, mask))
    run.grad_sum, run.seen = run.grad_sum[mask], run.seen[mask]


def _healthy(
    params: Params, scene: Scene, prior: Prior, config: FitConfig, run: _Run, view: View
) -> Bool[Tensor, "n"]:  # fmt: skip
    """Who stays. Large Gaussians are left alone once nothing grows into the place of those that go."""
    growing = run.step + 1 < config.densify_until * config.steps
    rule = config.densify if growing else replace(config.densify, max_size=math.inf)
    now = prior.deform(params, view.time, view.camera_index)
    best = now.opacities
    for i in range(MOMENTS):  # some priors raise opacities only while a thing is there
        best = torch.maximum(best, prior.deform(params, i / MOMENTS).opacities)
    return densify.healthy(params, now, rule, scene.extent, best)


def _without_idle(params: Params, scene: Scene, prior: Prior, config: FitConfig, order: ViewOrder, run: _Run) -> Params:
    """Makes room where growth lacks it."""
    done, every = run.step + 1, config.idle_every * config.steps
    passed = int(done / every) > int((done - config.densify_every) / every)
    early = done < config.densify_from * config.steps + 2 * every  # what is new has not found its place yet
    if not config.idle or not passed or early:
        return params
    expert = Expert(prior, params, config.options, config.background, prior.decoder)
    pairs = [order.at(step) for step in range(done, done + RANKED)]
    colours = coloured(expert, ((scene.cameras[c], scene.time(f), c) for c, f in pairs))
    room = _allowed(run.standing, config, run.step) - count(params)
    idle = giving_way(colours, run.grad_sum / run.seen.clamp_min(1), config.densify.grad_threshold, room, config.idle)
    run.optimizer.replace(*densify.keep(params, ~idle))
    run.grad_sum, run.seen = run.grad_sum[~idle], run.seen[~idle]
    return {k: v.detach() for k, v in run.optimizer.params.items()}


def _grow(params: Params, scene: Scene, prior: Prior, config: FitConfig, run: _Run, view: View) -> Params:
    now = prior.deform(params, view.time, view.camera_index)
    rule = replace(config.densify, max_gaussians=_allowed(run.standing, config, run.step))
    survivors, spawned, lineage = densify.grow(
        params, now, run.grad_sum / run.seen.clamp_min(1), rule, scene.extent,
        move=prior.moved, shrink=prior.shrunk, generator=run.generator,
    )  # fmt: skip
    if sum(populations(spawned).values()):
        spawned = prior.jittered(spawned, run.generator)
    grown = join([survivors, spawned])
    run.optimizer.replace(grown, lineage)
    return grown


def _cooled(progress: float, cooldown: float) -> float:
    """Factor on all learning rates."""
    return 1.0 if progress <= 1 - cooldown else COLD ** ((progress - 1 + cooldown) / cooldown)


def _allowed(start: int, config: FitConfig, step: int) -> int:
    """The cap rises evenly while growth lasts, so that places which only turn out hard later still find room."""
    first, last = config.densify_from * config.steps, config.densify_until * config.steps
    risen = min(max((step + 1 - first) / max(last - first, 1), 0.0), 1.0)
    cap = config.densify.max_gaussians
    return cap if start >= cap else round(start + (cap - start) * risen)


def _expert(prior: Prior, params: Params, config: FitConfig, scene: Scene, cameras: tuple[int, ...]) -> Expert:
    final = {k: v.detach().clone() for k, v in params.items()}
    meta = {
        "scene": scene.name, "n_frames": scene.n_frames, "extent": scene.extent, "steps": config.steps,
        "seed": config.seed, "start": scene.start, "seen_from": _viewpoints(scene, cameras),
    }  # fmt: skip
    return Expert(prior, final, config.options, config.background, prior.decoder, meta)


def _viewpoints(scene: Scene, cameras: tuple[int, ...]) -> list[list[float]]:
    """Centre, viewing direction and focal length in pixels of the cameras that were trained on, in the scene's frame."""
    seen = [scene.cameras[i] for i in cameras]
    rows = [[*c.centre.tolist(), *c.viewmat[2, :3].tolist(), float(c.K[:2, :2].diagonal().mean())] for c in seen]
    return [[float(f"{value:.7g}") for value in row] for row in rows]  # captures come in any unit
