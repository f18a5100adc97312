"""Where the cameras of the synthetic capture stand."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from moegs.render.camera import Camera

TARGET = (0.0, -0.1, 0.6)
RADIUS = 6.2
AZIMUTH, ELEVATIONS = 26.0, (3.0, 11.0, 19.0)  # degrees
FOCAL = 0.74  # of the image's width


def rig(count: int, size: tuple[int, int], generator: np.random.Generator) -> list[Camera]:
    """Cameras on arcs around the target: the first in the middle, the others on three arcs, each a little askew."""
    width, height = size
    k = torch.tensor([[FOCAL * width, 0, width / 2], [0, FOCAL * width, height / 2], [0, 0, 1]], dtype=torch.float32)
    cameras = []
    for azimuth, elevation in _directions(count, generator):
        around, up = np.radians(azimuth), np.radians(elevation)
        away = np.array([np.sin(around) * np.cos(up), -np.sin(up), -np.cos(around) * np.cos(up)])
        target = np.array(TARGET) + generator.normal(0, 0.05, 3)
        viewmat = look_at(np.array(TARGET) + RADIUS * away, target)
        cameras.append(Camera(torch.tensor(viewmat, dtype=torch.float32), k, width, height))
    return cameras


def _directions(count: int, generator: np.random.Generator) -> list[tuple[float, float]]:
    """Azimuth and elevation of each camera in degrees."""
    directions = [(0.0, ELEVATIONS[1])]
    for row, members in enumerate(np.array_split(np.arange(count - 1), len(ELEVATIONS))):
        spread = np.linspace(-AZIMUTH, AZIMUTH, len(members)) if len(members) > 1 else np.array([(row - 1) * AZIMUTH])
        for azimuth in spread[: len(members)]:
            askew = generator.uniform(-1.5, 1.5, 2)
            directions.append((float(azimuth + askew[0]), float(ELEVATIONS[row] + askew[1])))
    return directions


def look_at(eye: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """World→camera (OpenCV axes) of a camera at ``eye`` that looks at ``target``; the scene's y points down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    return viewmat
