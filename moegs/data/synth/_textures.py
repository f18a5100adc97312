"""Procedural solid textures: a pattern in two colours, dirtied by noise at several scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt32

_OCTAVES = 3
_PRIMES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)


@dataclass(frozen=True)
class Texture:
    """A solid texture in an object's own coordinates.

    Attributes:
        first: one colour of the pattern, RGB in [0, 1].
        second: the other colour.
        pattern: ``checker``, ``stripes`` (along x) or ``plain`` (noise alone decides between the colours).
        frequency: cells per scene unit.
        seed: of the noise.
        grain: how much the noise darkens and brightens.
    """

    first: tuple[float, float, float]
    second: tuple[float, float, float]
    pattern: Literal["checker", "stripes", "plain"] = "checker"
    frequency: float = 2.0
    seed: int = 0
    grain: float = 0.4

    def color(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Colours at points in the object's coordinates."""
        noise = fractal_noise(points * (1.7 * self.frequency), self.seed)
        mix = self._mix(points * self.frequency + 0.371, noise)[:, None]  # off the lattice: faces lie at round numbers
        color = np.asarray(self.first, np.float32) * (1 - mix) + np.asarray(self.second, np.float32) * mix
        return color * (1 + self.grain * (2 * noise[:, None] - 1))

    def _mix(self, cells: Float[np.ndarray, "n 3"], noise: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        if self.pattern == "checker":
            return (np.floor(cells).sum(1) % 2).astype(np.float32)
        if self.pattern == "stripes":
            return (np.floor(cells[:, 0]) % 2).astype(np.float32)
        return np.clip(2.5 * (noise - 0.5) + 0.5, 0, 1)


def fractal_noise(points: Float[np.ndarray, "n 3"], seed: int) -> Float[np.ndarray, "n"]:
    """Value noise in [0, 1], three octaves, each twice as fine and half as strong as the one before."""
    total = np.zeros(len(points), np.float32)
    for octave in range(_OCTAVES):
        total += value_noise(points * 2.0**octave + 19.19 * octave, seed + octave) * 0.5**octave
    return total / sum(0.5**octave for octave in range(_OCTAVES))


def value_noise(points: Float[np.ndarray, "n 3"], seed: int) -> Float[np.ndarray, "n"]:
    """Random values on the integer lattice, smoothly interpolated."""
    low = np.floor(points)
    at = (points - low).astype(np.float32)
    at = at * at * (3 - 2 * at)
    cell = low.astype(np.int32).astype(np.uint32)
    total = np.zeros(len(points), np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.ones(len(points), np.float32)
        for axis, side in enumerate(corner):
            weight *= at[:, axis] if side else 1 - at[:, axis]
        total += weight * _hash(cell + np.array(corner, np.uint32), seed)
    return total


def _hash(cell: UInt32[np.ndarray, "n 3"], seed: int) -> Float[np.ndarray, "n"]:
    state = np.full(len(cell), (seed * 0x27D4EB2F) & 0xFFFFFFFF, np.uint32)
    for axis, prime in enumerate(_PRIMES):
        state = (state ^ (cell[:, axis] * np.uint32(prime))) * np.uint32(0x2C1B3C6D)
        state ^= state >> np.uint32(15)
    return (state >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)
