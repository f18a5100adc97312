"""Any expert as one INRIA .ply a moment, for viewers that know nothing of motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians import harmonics
from moegs.gaussians.container import Gaussians
from moegs.gaussians.ply import write_ply
from moegs.interop._refilter import VIEWERS, drawn_alike, refiltered, viewpoints


def export_ply_sequence(
    expert: Expert, folder: str | Path, times: Sequence[float], *, as_trained: bool = False
) -> list[Path]:
    """Write ``frame_00000.ply``, ``frame_00001.ply``… into a folder, one for each time.

    Experts that are drawn through another low-pass filter than 3D Gaussian Splatting's, as those trained here are, are
    rewritten for viewers that know only that one: what is thinner than its filter becomes fainter, at the resolution of the
    cameras that the expert was trained on, which stand in its ``meta``.

    Features that need a decoder are replaced by their base colour (its first three channels), because the rest of the
    decoder depends on the pixel; such frames show SpacetimeGaussians' full models without their view-dependent part. What
    depends on the camera stays behind too: 4DGS' footprints, where it looks colours up, and its environment.

    Args:
        expert: any expert.
        folder: where to; made if need be.
        times: clip-normalised times in [0, 1].
        as_trained: leave opacities and scales as they are, for programs that draw with the expert's own raster options.

    Returns:
        The files, in the order of ``times``.

    Source: of the rewriting, our own; Mip-Splatting (Yu et al., CVPR 2024) folds its 3D filter into such files.

    Raises:
        ConfigError: there are no times, or one is outside [0, 1].
    """
    if not len(times) or not all(0 <= t <= 1 for t in times):
        raise ConfigError(f"times: expected at least one, all from 0 to 1, got {list(times)}.")
    paths = [Path(folder) / f"frame_{i:05d}.ply" for i in range(len(times))]
    seen_from = None if drawn_alike(expert.options, VIEWERS) else viewpoints(expert.meta)
    with torch.no_grad():
        for path, t in zip(paths, times, strict=True):
            now = base_colors(expert, expert.at(float(t)))
            write_ply(now if as_trained or seen_from is None else refiltered(now, expert.options, seen_from), path)
    return paths


def base_colors(expert: Expert, gaussians: Gaussians) -> Gaussians:
    """The Gaussians without features, their base colour as harmonics of degree 0."""
    if gaussians.features is None:
        return gaussians
    albedo = gaussians.features[:, :3]
    rgb = torch.sigmoid(albedo) if expert.decoder == "sigmoid" else albedo.clamp(0.0, 1.0)
    return replace(gaussians, features=None, sh=harmonics.from_rgb(rgb)[:, None])
