"""What to hold a mixture against: the average of its experts, the best of them at every pixel, all gates drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from moegs.data import Scene
from moegs.errors import ConfigError
from moegs.metrics import FrameScores, score, summarise
from moegs.progress import progress_bar
from moegs.route.blend import blend, oracle_gates, uniform_gates
from moegs.route.mixture import Mixture, render_experts, render_mixture
from moegs.route.sparse import render_sparse


@torch.no_grad()
def yardsticks(
    mixture: Mixture,
    scene: Scene,
    cameras: Sequence[int] | None = None,
    *,
    every: int = 1,
    backend: str = "auto",
    progress: bool = False,
) -> dict[str, FrameScores]:
    """Mean scores of the ``"uniform average"`` and the ``"per-pixel oracle"`` on the held-out cameras.

    The average shows what an ensemble gains by itself. The oracle looks at the photograph and picks the nearer expert
    at every pixel: what a router that selects could reach at most.
    """
    scores: dict[str, list[FrameScores]] = {"uniform average": [], "per-pixel oracle": []}
    experts = list(mixture.experts.values())
    for camera, frame in _views("average and oracle", scene, cameras, every, progress):
        images = render_experts(experts, scene.cameras[camera], scene.time(frame), backend=backend).color
        truth = scene.image(camera, frame)
        scores["uniform average"].append(score(blend(images, uniform_gates(images)), truth))
        scores["per-pixel oracle"].append(score(blend(images, oracle_gates(images, truth)), truth))
    return {name: summarise(values) for name, values in scores.items()}


@torch.no_grad()
def sparse_error(
    mixture: Mixture,
    scene: Scene,
    min_gate: float,
    cameras: Sequence[int] | None = None,
    *,
    every: int = 1,
    backend: str = "auto",
    progress: bool = False,
) -> dict[str, float]:
    """What sparse gates leave out, over the held-out cameras.

    Returns:
        ``tiles``, the mean share of (expert, tile) pairs that are drawn, and ``largest_error``, the largest difference
        of any channel of any pixel from the exact blend.
    """
    shares, errors = [], []
    for camera, frame in _views("sparse gates", scene, cameras, every, progress):
        place, t = scene.cameras[camera], scene.time(frame)
        sparse = render_sparse(mixture, place, t, min_gate, backend=backend)
        exact = render_mixture(mixture, place, t, backend=backend)
        shares.append(sparse.share)
        errors.append(float((sparse.color - exact.color).abs().max()))
    return {"tiles": sum(shares) / len(shares), "largest_error": max(errors)}


def _views(
    title: str, scene: Scene, cameras: Sequence[int] | None, every: int, progress: bool
) -> Iterator[tuple[int, int]]:
    """Cameras and frames to look at, with a bar on stderr when that takes more than two seconds."""
    chosen = tuple(scene.test if cameras is None else cameras)
    views = [(camera, frame) for camera in chosen for frame in range(0, scene.n_frames, every)]
    if not views:
        raise ConfigError(f"{title}: expected at least one camera, got none; hold some out (--test).")
    with progress_bar(title, len(views), progress) as advance:
        for view in views:
            yield view
            advance()
