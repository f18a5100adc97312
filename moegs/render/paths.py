"""Camera paths to look at a scene from where no camera stood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError
from moegs.render.camera import Camera

UP = (0.0, -1.0, 0.0)  # of a camera with OpenCV axes, in its own frame


def spiral(
    cameras: Sequence[Camera],
    count: int,
    *,
    focus: float,
    radius: float | None = None,
    turns: float = 2.0,
    base: int | None = None,
) -> list[Camera]:
    """A closed path around one camera of a rig that keeps its eyes on one point, as LLFF renders its videos.

    In the axes of the base camera the eye is at ``radius · (cos φ, ½ sin φ, ½ sin ½φ)`` with φ from 0 to
    ``turns`` · 2π, and looks at the point ``focus`` ahead of the base camera.

    Args:
        cameras: the rig; the path is sized by it and takes image size and intrinsics from the base camera.
        count: cameras on the path.
        focus: distance of the point that stays in the centre (world units).
        radius: half the width of the path; half the base camera's distance to its nearest neighbours by default.
        turns: times around; with even numbers the end meets the start.
        base: index of the camera that the path winds around; the one nearest to the middle of the rig by default.

    Raises:
        ConfigError: there are no cameras, or a number is not positive.
    """
    if not cameras or count < 1 or focus <= 0:
        raise ConfigError(f"spiral: needs cameras, a count and a focus, got {len(cameras)}, {count} and {focus}.")
    middle = cameras[central(cameras) if base is None else base]
    size = _reach(cameras, middle, focus) if radius is None else radius
    phi = torch.linspace(0, turns * 2 * math.pi, count + 1)[:-1]
    eyes = size * torch.stack([phi.cos(), phi.sin() / 2, (phi / 2).sin() / 2], dim=-1)
    to_world = torch.linalg.inv(middle.viewmat)
    target = torch.tensor([0.0, 0.0, focus]).to(to_world)
    return [replace(middle, viewmat=look_at(eye, target) @ middle.viewmat) for eye in eyes.to(to_world)]


def between(cameras: Sequence[Camera], count: int, seed: int = 0) -> list[Camera]:
    """Cameras on the way from one camera of a rig to one of its four nearest neighbours.

    They start from the rig's cameras in turn. Eyes are blended linearly, directions by the rotation nearest to the blend of
    both; image size and intrinsics are those of the camera that the way starts from.

    Args:
        cameras: the rig.
        count: how many.
        seed: chooses the neighbours and, between a quarter and three quarters, how far to go.

    Raises:
        ConfigError: there are fewer than two cameras, or ``count`` is negative.
    """
    if len(cameras) < 2 or count < 0:
        raise ConfigError(f"between: expected two or more cameras and a count ≥ 0, got {len(cameras)} and {count}.")
    generator = torch.Generator().manual_seed(seed)
    to_world = [torch.linalg.inv(camera.viewmat.double()) for camera in cameras]
    centres = torch.stack([pose[:3, 3] for pose in to_world])
    way = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    path = []
    for i, (pick, far) in enumerate(way.tolist()):
        a = i % len(cameras)
        b = _neighbour(centres, a, pick)
        viewmat = _blend(to_world[a], to_world[b], 0.25 + 0.5 * far)
        path.append(replace(cameras[a], viewmat=viewmat.to(cameras[a].viewmat)))
    return path


def _neighbour(centres: Float[Tensor, "n 3"], camera: int, pick: float) -> int:
    """One of the four cameras nearest to a camera; ``pick`` in [0, 1) says which."""
    distances = (centres - centres[camera]).norm(dim=1)
    distances[camera] = math.inf
    near = distances.argsort()[: min(4, len(centres) - 1)]
    return int(near[int(pick * len(near))])


def _blend(a: Float[Tensor, "4 4"], b: Float[Tensor, "4 4"], weight: float) -> Float[Tensor, "4 4"]:
    """World→camera matrix between two camera→world matrices."""
    mixed = torch.lerp(a, b, weight)
    left, _, right = torch.linalg.svd(mixed[:3, :3])
    mixed[:3, :3] = left @ right
    return torch.linalg.inv(mixed)


def central(cameras: Sequence[Camera]) -> int:
    """Index of the camera nearest to the middle of the rig."""
    centres = torch.stack([c.centre for c in cameras])
    return int((centres - centres.mean(0)).norm(dim=1).argmin())


def look_at(
    eye: Float[Tensor, "3"], target: Float[Tensor, "3"], up: tuple[float, float, float] = UP
) -> Float[Tensor, "4 4"]:
    """World→camera matrix, OpenCV axes, of an eye that looks at a target; ``up`` points to the top of the image.

    Raises:
        ConfigError: eye and target coincide, or lie along ``up``.

    Example:
        >>> look_at(torch.tensor([0.0, 0.0, -2.0]), torch.zeros(3))[:3, 3]
        tensor([0., 0., 2.])
    """
    forward = target - eye
    right = torch.linalg.cross(forward, eye.new_tensor(up))
    if float(right.norm()) <= 1e-6 * max(1.0, float(forward.norm())):
        raise ConfigError(f"look_at: no image is upright from {eye.tolist()} to {target.tolist()} with up {up}.")
    right, forward = right / right.norm(), forward / forward.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    view = torch.eye(4).to(eye)
    view[:3, :3], view[:3, 3] = rotation, -rotation @ eye
    return view


def _reach(cameras: Sequence[Camera], middle: Camera, focus: float) -> float:
    """Half the distance to the nearest neighbours (their median of four), or a tenth of the focus for a lone camera."""
    distances = torch.stack([(c.centre - middle.centre).norm() for c in cameras])
    near = distances[distances > 1e-6].sort().values[:4]
    return 0.5 * float(near.median()) if len(near) else 0.1 * focus
