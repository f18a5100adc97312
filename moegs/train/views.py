"""Which training view comes at which step: shuffled epochs that depend on nothing but the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from moegs.data import Scene, View


@dataclass(frozen=True)
class ViewOrder:
    """A reproducible order over cameras x frames.

    Attributes:
        cameras: camera indices to draw from.
        frames: frame indices to draw from.
        seed: shuffles differ between seeds and between epochs.
    """

    cameras: tuple[int, ...]
    frames: tuple[int, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.cameras) * len(self.frames)

    def at(self, step: int) -> tuple[int, int]:
        """Camera and frame of a step."""
        index = _permutation(len(self), self.seed, step // len(self))[step % len(self)]
        return self.cameras[index % len(self.cameras)], self.frames[index // len(self.cameras)]


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(n, generator=generator).tolist()


def training_order(scene: Scene, seed: int = 0, cameras: tuple[int, ...] | None = None) -> ViewOrder:
    """All training cameras (or some of them) and all frames of a scene."""
    return ViewOrder(scene.train if cameras is None else cameras, tuple(range(scene.n_frames)), seed)


def view_at(scene: Scene, order: ViewOrder, step: int) -> View:
    """The view that a step trains on."""
    return scene.view(*order.at(step))


@dataclass(frozen=True)
class ViewSample:
    """Some views of a scene, read from disk as they are asked for; may be gone through again and again."""

    scene: Scene
    pairs: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[View]:
        return (self.scene.view(camera, frame) for camera, frame in self.pairs)


def sample_views(scene: Scene, n: int, cameras: tuple[int, ...] | None = None, seed: int = 0) -> ViewSample:
    """``n`` different views of the training cameras (or of some of them), drawn evenly from cameras and frames."""
    order = training_order(scene, seed, cameras)
    return ViewSample(scene, tuple(order.at(step) for step in range(min(n, len(order)))))
