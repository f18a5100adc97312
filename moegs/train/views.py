"""Which training view comes at which step: shuffled epochs that depend on nothing but the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.data import Scene, View
from moegs.errors import ConfigError
from moegs.io import digest


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
    """All training cameras (or some of them) and all frames of a scene.

    Raises:
        ConfigError: no cameras are left to train on, or one of them is not a training camera of the scene.
    """
    return ViewOrder(scene.training_cameras(cameras), tuple(range(scene.n_frames)), seed)


def view_at(scene: Scene, order: ViewOrder, step: int, device: torch.device | str = "cpu") -> View:
    """The view that a step trains on, where its tensors are to be."""
    return scene.view(*order.at(step)).to(device)


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


def stacking_split(scene: Scene, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keep ``n`` training cameras from the experts, for a router that then learns on views they never saw.

    The kept cameras stand evenly over the rig: their places minimise the sum of distances from every training camera to
    the nearest of them (k-medoids; greedy, then by swaps). Experts lose no corner of the rig that way. The choice
    depends on nothing but camera centres.

    Returns:
        Cameras for the experts and cameras for the router, both in order, together all training cameras.

    Raises:
        ConfigError: none would be left to one of the two.
    """
    if not 1 <= n < len(scene.train):
        raise ConfigError(f"cameras to keep for the router: expected 1 to {len(scene.train) - 1} training cameras, got {n}.")
    centres = torch.stack([scene.cameras[i].centre for i in scene.train]).double()
    kept = {scene.train[i] for i in _medoids(torch.cdist(centres, centres), n)}
    return tuple(i for i in scene.train if i not in kept), tuple(i for i in scene.train if i in kept)


def _medoids(distances: Float[Tensor, "m m"], n: int) -> list[int]:
    """Indices of ``n`` points with the least sum of distances from all points to the nearest of them."""
    chosen: list[int] = []
    while len(chosen) < n:
        chosen = _best([[*chosen, i] for i in range(len(distances)) if i not in chosen], distances)
    while True:
        others = [i for i in range(len(distances)) if i not in chosen]
        swapped = [[*chosen[:k], i, *chosen[k + 1 :]] for k in range(n) for i in others]
        better = _best([chosen, *swapped], distances)
        if better == chosen:
            return chosen
        chosen = better


def _best(candidates: list[list[int]], distances: Float[Tensor, "m m"]) -> list[int]:
    """The candidate with the least cost, the first of those that differ by rounding alone."""
    costs = torch.stack([distances[:, c].min(dim=1).values.sum() for c in candidates])
    nearly = costs <= costs.min() + 1e-9 * distances.max()
    return candidates[int(nearly.nonzero()[0])]


def scene_description(scene: Scene) -> dict[str, Any]:
    """What tells one clip from another, so that a run is never resumed on other pictures than it began with.

    Pictures are known by the first one of each training camera: nobody looks at what is held out while something trains.
    """
    cameras = {f"{i}/{name}": getattr(c, name) for i, c in enumerate(scene.cameras) for name in ("viewmat", "K")}
    pictures = {f"{i}": partial(scene.image, i, 0) for i in scene.train}
    return {
        "name": scene.name,
        "frames": scene.n_frames,
        "sizes": [[camera.width, camera.height] for camera in scene.cameras],
        "depths": [[camera.near, camera.far] for camera in scene.cameras],
        "cameras": digest(cameras),
        "extent": scene.extent,
        "points": digest({"points": scene.cloud.points, "colors": scene.cloud.colors}),
        "first pictures": digest(pictures),
    }
