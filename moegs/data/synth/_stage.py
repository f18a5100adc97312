"""What the synthetic scene shows: a room, things that stand in it, and things that move each in their own way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moegs.data.synth._shapes import Body, Vector, turned
from moegs.data.synth._textures import Texture

FLOOR, CEILING = 1.7, -2.7


@dataclass(frozen=True)
class Stage:
    """The content of the scene, a pure function of time in [0, 1); ``seed`` chooses the grain of the textures."""

    seed: int = 0

    def static(self) -> list[Body]:
        """What never changes."""
        walls = self._texture(0, (0.5, 0.56, 0.6), (0.68, 0.7, 0.66), "plain")
        floor = self._texture(1, (0.62, 0.5, 0.38), (0.4, 0.28, 0.2), n=1.3)
        paper = self._texture(2, (0.72, 0.66, 0.5), (0.5, 0.6, 0.55), "stripes", 1.6)
        table = self._texture(3, (0.7, 0.42, 0.25), (0.5, 0.28, 0.15), "plain", 3)
        pillar = self._texture(4, (0.85, 0.8, 0.72), (0.35, 0.38, 0.5), n=3)
        chest = self._texture(5, (0.25, 0.5, 0.42), (0.6, 0.75, 0.5), n=2.2)
        box = self._texture(6, (0.55, 0.3, 0.5), (0.8, 0.6, 0.4), "stripes", 3)
        ball = self._texture(7, (0.75, 0.2, 0.2), (0.9, 0.75, 0.6), n=4)
        return [
            Body("room", (0, -0.5, -2.0), (5.6, 2.3, 6.6), walls),
            Body("box", (0, FLOOR + 0.2, 0), (6, 0.2, 6), floor),
            Body("box", (0, -0.4, 4.4), (6, 3, 0.2), paper),
            Body("box", (-1.7, 1.25, 0.3), (0.9, 0.45, 0.55), table),
            Body("box", (1.75, 0.6, 0.9), (0.28, 1.1, 0.28), pillar),
            Body("box", (-2.9, 0.7, 2.6), (0.9, 1.0, 0.5), chest),
            Body("box", (3.3, 0.9, 3.0), (0.8, 0.8, 0.6), box),
            Body("sphere", (-2.0, 0.45, 0.2), (0.35,) * 3, ball, gloss=0.5),
        ]

    def moving(self, time: float) -> list[Body]:
        """What there is to see at a time besides the static things."""
        smooth, articulated = (self._pendulum, self._orbit), (self._arm, self._crate)
        abrupt = (self._bounce, self._throw, self._visitor, self._lamp)
        return [body for part in (*smooth, *articulated, *abrupt) for body in part(time)]

    def _pendulum(self, time: float) -> list[Body]:
        """Smooth: one swing to and fro."""
        angle, length = 0.6 * math.sin(math.tau * time + 0.4), 2.1
        pivot, down = np.array([-0.4, CEILING, 0.9]), np.array([math.sin(angle), math.cos(angle), 0])
        rod = self._texture(10, (0.3, 0.3, 0.32), (0.5, 0.5, 0.5), "plain")
        bob = self._texture(11, (0.95, 0.75, 0.2), (0.7, 0.35, 0.1), n=4)
        swing = turned("z", -angle)
        return [
            Body("box", _at(pivot + down * length / 2), (0.03, length / 2, 0.03), rod, swing),
            Body("sphere", _at(pivot + down * length), (0.5,) * 3, bob, swing, gloss=0.25),
        ]

    def _orbit(self, time: float) -> list[Body]:
        """Smooth, with occlusion: once around the pillar."""
        angle = math.tau * time
        centre = (1.75 + 1.05 * math.cos(angle), 0.1 + 0.2 * math.sin(2 * angle), 0.9 + 1.05 * math.sin(angle))
        ball = self._texture(12, (0.2, 0.45, 0.85), (0.9, 0.9, 0.95), n=5)
        return [Body("sphere", centre, (0.42,) * 3, ball, turned("y", -2 * angle))]

    def _arm(self, time: float) -> list[Body]:
        """Articulated: shoulder and elbow oscillate at different rates."""
        metal = self._texture(13, (0.8, 0.45, 0.15), (0.25, 0.25, 0.28), "stripes", 6)
        shoulder, elbow = 0.45 * math.sin(2 * math.tau * time), 0.9 + 0.7 * math.sin(3 * math.tau * time + 1)
        base = np.array([3.0, FLOOR - 0.1, 0.4])
        parts = [Body("box", _at(base), (0.3, 0.12, 0.3), metal)]
        for angle, length in ((shoulder, 1.1), (shoulder - elbow, 0.9)):
            up = np.array([math.sin(angle), -math.cos(angle), 0])
            parts.append(Body("box", _at(base + up * length / 2), (0.18, length / 2, 0.18), metal, turned("z", angle)))
            base = base + up * length
        hand = self._texture(14, (0.9, 0.3, 0.4), (0.95, 0.85, 0.8), n=6)
        return [*parts, Body("sphere", _at(base), (0.33,) * 3, hand, turned("z", shoulder - elbow))]

    def _crate(self, time: float) -> list[Body]:
        """Rotation in place: half a turn."""
        wood = self._texture(15, (0.75, 0.6, 0.35), (0.45, 0.3, 0.15), n=3.5)
        return [Body("box", (-3.1, FLOOR - 0.5, -0.4), (0.5, 0.5, 0.5), wood, turned("y", math.pi * time))]

    def _bounce(self, time: float) -> list[Body]:
        """Fast, with kinks: three bounces across the room."""
        rubber = self._texture(16, (0.15, 0.65, 0.3), (0.95, 0.95, 0.3), n=4)
        height = 1.3 * abs(math.sin(3 * math.pi * time + 0.5))
        centre = (-1.1 + 2.6 * time, FLOOR - 0.36 - height, -1.45)
        return [Body("sphere", centre, (0.36,) * 3, rubber, turned("z", 5 * time))]

    def _throw(self, time: float) -> list[Body]:
        """Very fast, there for a quarter of the clip only."""
        if not 0.45 <= time < 0.7:
            return []
        along = (time - 0.45) / 0.25
        centre = (-3.2 + 6.0 * along, -0.3 - 2.8 * along * (1 - along), 1.9)
        skin = self._texture(17, (0.85, 0.15, 0.12), (0.6, 0.05, 0.1), "plain")
        return [Body("sphere", centre, (0.36,) * 3, skin)]

    def _visitor(self, time: float) -> list[Body]:
        """Abrupt: a box that is suddenly there, changes its place, and is gone."""
        if not 0.35 <= time < 0.85:
            return []
        x = -0.1 if time < 0.6 else 0.8
        card = self._texture(18, (0.55, 0.25, 0.7), (0.95, 0.85, 0.3), n=4)
        return [Body("box", (x, FLOOR - 0.5, -0.2), (0.5, 0.5, 0.5), card, turned("y", 0.5))]

    def _lamp(self, time: float) -> list[Body]:
        """Abrupt in colour only: a panel on the wall that blinks."""
        lit, dark = ((1.0, 0.95, 0.7), (1.0, 0.8, 0.45)), ((0.2, 0.2, 0.3), (0.12, 0.12, 0.2))
        colors = lit if int(8 * time) % 2 else dark
        return [Body("box", (0.9, -1.3, 4.15), (1.1, 0.65, 0.06), self._texture(19, *colors, n=4), emits=True)]

    def _texture(self, index: int, first: Vector, second: Vector, pattern: str = "checker", n: float = 2.0) -> Texture:
        return Texture(first, second, pattern, n, seed=1009 * self.seed + 31 * index)  # type: ignore[arg-type]


def _at(point: np.ndarray) -> Vector:
    return float(point[0]), float(point[1]), float(point[2])
