"""The geometry of models side by side: depth scores, a sheet of depth maps, a video along a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from moegs.data import Scene
from moegs.data.depth import read_depth
from moegs.expert import Expert, render_expert
from moegs.metrics.depth import DepthScores, depth_scores, summarise_depth
from moegs.progress import progress_bar
from moegs.render.api import expected_depth
from moegs.render.camera import Camera
from moegs.report.movie import open_movie
from moegs.report.pictures import Picture, contact_sheet, depth_colors, to_uint8


@torch.no_grad()
def score_depth(
    expert: Expert,
    scene: Scene,
    capture: str | Path,
    *,
    cameras: Sequence[int] | None = None,
    every: int = 1,
    start: int = 0,
    backend: str = "auto",
) -> DepthScores:
    """Expected depth of a model against the capture's true depth, mean over frames in which any is known.

    Renders at the size of the true depth, whatever size the scene was loaded in.

    Args:
        expert: an expert or a fused mixture.
        scene: the clip.
        capture: its folder, with ``depth/``.
        cameras: the held-out ones by default.
        every: score each ``every``-th frame.
        start: first frame of the clip within the capture.
        backend: rasteriser.

    Raises:
        CaptureError: there is no depth of a camera or frame.
        ConfigError: none is known in any of the frames.
    """
    scores = []
    for camera in scene.test if cameras is None else cameras:
        for frame in range(0, scene.n_frames, every):
            truth = read_depth(capture, scene.camera_names[camera], start + frame)
            if not bool((torch.isfinite(truth) & (truth > 0)).any()):
                continue
            view = scene.cameras[camera].resized(truth.shape[1], truth.shape[0])
            render = render_expert(expert, view, scene.time(frame), backend=backend)
            scores.append(depth_scores(render.depth.cpu(), render.alpha.cpu(), truth))
    return summarise_depth(scores)


@torch.no_grad()
def side_by_side(
    models: Mapping[str, Expert], camera: Camera, t: float, bounds: tuple[float, float], *, backend: str = "auto"
) -> Picture:
    """Images of models in one row and their depth (near is bright, one scale for all) in another."""
    renders = {name: render_expert(model, camera, t, backend=backend) for name, model in models.items()}
    images = [(name, to_uint8(r.color)) for name, r in renders.items()]
    depths = [(f"depth of {name}", to_uint8(depth_colors(expected_depth(r), *bounds))) for name, r in renders.items()]
    return contact_sheet([images, depths])


def geometry_movie(
    path: str | Path,
    models: Mapping[str, Expert],
    shots: Sequence[tuple[Camera, float]],
    bounds: tuple[float, float],
    *,
    fps: float = 30.0,
    backend: str = "auto",
    progress: bool = False,
) -> None:
    """Write :func:`side_by_side` along a path of cameras and times as one mp4; ``progress`` shows a bar."""
    with progress_bar(Path(path).name, len(shots), progress) as advance, open_movie(path, fps) as add:
        for camera, t in shots:
            add(side_by_side(models, camera, t, bounds, backend=backend))
            advance()
