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


def export_ply_sequence(expert: Expert, folder: str | Path, times: Sequence[float]) -> list[Path]:
    """Write ``frame_00000.ply``, ``frame_00001.ply``… into a folder, one for each time.

    Features that need a decoder are replaced by their base colour (its first three channels), because the rest of the
    decoder depends on the pixel; such frames show SpacetimeGaussians' full models without their view-dependent part. What
    depends on the camera stays behind too: 4DGS' footprints, where it looks colours up, and its environment.

    Args:
        expert: any expert.
        folder: where to; made if need be.
        times: clip-normalised times in [0, 1].

    Returns:
        The files, in the order of ``times``.

    Raises:
        ConfigError: there are no times, or one is outside [0, 1].
    """
    if not len(times) or not all(0 <= t <= 1 for t in times):
        raise ConfigError(f"times: expected at least one, all from 0 to 1, got {list(times)}.")
    paths = [Path(folder) / f"frame_{i:05d}.ply" for i in range(len(times))]
    with torch.no_grad():
        for path, t in zip(paths, times, strict=True):
            write_ply(base_colors(expert, expert.at(float(t))), path)
    return paths


def base_colors(expert: Expert, gaussians: Gaussians) -> Gaussians:
    """The Gaussians without features, their base colour as harmonics of degree 0."""
    if gaussians.features is None:
        return gaussians
    albedo = gaussians.features[:, :3]
    rgb = torch.sigmoid(albedo) if expert.decoder == "sigmoid" else albedo.clamp(0.0, 1.0)
    return replace(gaussians, features=None, sh=harmonics.from_rgb(rgb)[:, None])
