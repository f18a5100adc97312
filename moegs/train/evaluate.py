"""Scores of a model on held-out cameras, in the form that results.json keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.data import Scene
from moegs.errors import ConfigError
from moegs.expert import Expert, render_expert
from moegs.metrics import FrameScores, score, summarise, take_turns, time_frames
from moegs.metrics.frames import Perceptual
from moegs.progress import progress_bar
from moegs.render.camera import Camera
from moegs.route.mixture import Mixture
from moegs.route.render import render_mixture
from moegs.route.sparse import render_sparse
from moegs.train.memory import freed_memory_kept

Renderer = Callable[[Camera, float], Float[Tensor, "h w 3"]]


def milliseconds(scene: Scene, renderers: Mapping[str, Renderer], camera: int, timed: int) -> dict[str, float]:
    """Median milliseconds a frame of a camera for each renderer, all in turns.

    On a busy machine, what is timed later is not what is slower.
    """

    def at(renderer: Renderer) -> Callable[[int], Tensor]:
        return lambda i: renderer(scene.cameras[camera], scene.time(i * scene.n_frames // timed))

    with torch.no_grad(), freed_memory_kept():
        turns = take_turns({name: at(renderer) for name, renderer in renderers.items()}, timed)
    return {name: speed.median_ms for name, speed in turns.items()}


@dataclass(frozen=True)
class Evaluation:
    """Scores of every frame of the evaluated cameras, their mean, and the median milliseconds a frame."""

    frames: tuple[FrameScores, ...]
    mean: FrameScores
    ms_per_frame: float


def expert_renderer(expert: Expert, backend: str = "auto") -> Renderer:
    """A function from camera and time to an expert's image."""
    return lambda camera, t: render_expert(expert, camera, t, backend=backend).color


def mixture_renderer(mixture: Mixture, backend: str = "auto") -> Renderer:
    """A function from camera and time to the blended image."""
    return lambda camera, t: render_mixture(mixture, camera, t, backend=backend).color


def sparse_renderer(mixture: Mixture, min_gate: float, backend: str = "auto") -> Renderer:
    """A function from camera and time to the image blended without the experts whose gate is below ``min_gate``."""
    return lambda camera, t: render_sparse(mixture, camera, t, min_gate, backend=backend).color


@torch.no_grad()
def evaluate(
    renderer: Renderer,
    scene: Scene,
    cameras: Sequence[int] | None = None,
    *,
    every: int = 1,
    timed: int = 10,
    perceptual: Perceptual | None = None,
    progress: bool = False,
) -> Evaluation:
    """Render the held-out cameras and score every frame.

    Args:
        renderer: from camera and clip-normalised time to an image.
        scene: the clip.
        cameras: cameras to score; the held-out ones by default.
        every: score each ``every``-th frame.
        timed: frames to time after the scores, on the first of the cameras.
        perceptual: an LPIPS distance, see :func:`moegs.metrics.load_lpips`; not computed by default.
        progress: show a bar on stderr when it takes more than two seconds.

    Raises:
        ConfigError: there is no camera to score, or ``every`` is less than one.
    """
    chosen = tuple(scene.test if cameras is None else cameras)
    if not chosen:
        raise ConfigError("evaluate: expected at least one camera to score, got none; hold some out (--test).")
    if every < 1:
        raise ConfigError(f"evaluate: expected every of at least 1, got {every}.")
    views = [(c, f) for c in chosen for f in range(0, scene.n_frames, every)]
    scores, camera = [], scene.cameras[chosen[0]]
    with freed_memory_kept():
        with progress_bar("evaluating", len(views), progress) as advance:
            for c, f in views:
                truth = scene.image(c, f)
                scores.append(score(renderer(scene.cameras[c], scene.time(f)).to(truth.device), truth, perceptual))
                advance()
        speed = time_frames(lambda i: renderer(camera, scene.time(i * scene.n_frames // max(timed, 1))), max(timed, 1))
    return Evaluation(tuple(scores), summarise(scores), speed.median_ms)
