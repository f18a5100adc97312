"""Spheres and boxes that a ray can hit."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float

from moegs.data.synth._textures import Texture

Vector = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Body:
    """A textured solid, scene coordinates (x right, y down, z away from the rig).

    Attributes:
        shape: ``sphere``, ``box``, or ``room``: a box that is seen from inside.
        centre: its centre.
        half: half extents along its own axes; a sphere's radius is the first.
        texture: its colours.
        rotation: own axes → scene.
        gloss: strength of a highlight, which moves with the eye.
        emits: shines by itself instead of being lit.
    """

    shape: Literal["sphere", "box", "room"]
    centre: Vector
    half: Vector
    texture: Texture
    rotation: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3, dtype=np.float32))
    gloss: float = 0.0
    emits: bool = False

    def corners(self) -> Float[np.ndarray, "8 3"]:
        """Corners of a box around it, scene coordinates."""
        signs = np.array(list(product((-1.0, 1.0), repeat=3)))
        return signs * np.asarray(self.half) @ self.rotation.T + np.asarray(self.centre)

    def hit(self, origin: Float[np.ndarray, "3"], rays: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Ray parameter of the first surface along ``origin + t · ray`` with t > 0; infinite where there is none."""
        start = ((origin - np.asarray(self.centre)) @ self.rotation).astype(np.float32)
        local = rays @ self.rotation.astype(np.float32)
        if self.shape == "sphere":
            return _hit_sphere(start, local, self.half[0])
        return _hit_box(start, local, np.asarray(self.half, np.float32), self.shape == "room")

    def surface(self, points: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
        """Own coordinates of surface points, and their outward normals in scene coordinates."""
        local = (points - np.asarray(self.centre, np.float32)) @ self.rotation.astype(np.float32)
        if self.shape == "sphere":
            normals = local / self.half[0]
        else:
            face = np.abs(local / np.asarray(self.half, np.float32)).argmax(1)
            normals = np.zeros_like(local)
            rows = np.arange(len(local))
            normals[rows, face] = np.sign(local[rows, face]) * (-1 if self.shape == "room" else 1)
        return local, normals @ self.rotation.T.astype(np.float32)


def _hit_sphere(start: Float[np.ndarray, "3"], rays: Float[np.ndarray, "n 3"], radius: float) -> Float[np.ndarray, "n"]:
    a, b, c = (rays * rays).sum(1), rays @ start, float(start @ start) - radius**2
    inside_root = b * b - a * c
    near = (-b - np.sqrt(np.maximum(inside_root, 0))) / a
    return np.where((inside_root > 0) & (near > 0), near, np.inf).astype(np.float32)


def _hit_box(
    start: Float[np.ndarray, "3"], rays: Float[np.ndarray, "n 3"], half: Float[np.ndarray, "3"], inside: bool
) -> Float[np.ndarray, "n"]:
    rays = np.where(np.abs(rays) < 1e-9, np.float32(1e-9), rays)
    one, other = (-half - start) / rays, (half - start) / rays
    enter, leave = np.minimum(one, other).max(1), np.maximum(one, other).min(1)
    first = leave if inside else enter
    return np.where((enter < leave) & (first > 0), first, np.inf).astype(np.float32)


def turned(axis: Literal["x", "y", "z"], angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about a scene axis by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return np.array(rows[axis], np.float32)
