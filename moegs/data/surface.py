"""Points on what stands still: a plane sweep over the pictures that cameras mostly see.

A capture's own points are those that structure from motion matched, few and where there is texture. Growth fills the rest
in by splitting, which takes a good part of a short run. 4DGaussians, E-D3DGS and 4DGS start from COLMAP's dense stereo of the
first frame instead, which takes CUDA and minutes. Here every pixel of some cameras' temporal medians is followed
along its ray to the depth at which neighbouring cameras show the same patch, and kept where other cameras come to the
same depth: thousands of points in seconds, from the pictures alone. What moves has no median to agree on, and is left to
:mod:`moegs.data.sweep`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from moegs.data._project import depth_range, look_up, nearest_cameras, pictures, small_camera, unit_rays
from moegs.data.scene import Scene
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.progress import progress_bar
from moegs.render.camera import Camera

OTHER_SURFACE = 0.2  # colours that differ more are another surface, however much more
AT_ONCE = 16  # depths looked up together
SAME_DEPTH = 2.0  # steps of the search by which the depths of two cameras may differ
AS_GOOD = 0.01  # patches that differ by so much more than the best one's may be the right ones too
AMBIGUOUS = 0.3  # of all depths being as good as the best: a patch without texture tells nothing


@dataclass(frozen=True)
class SurfaceConfig:
    """How hard to look.

    Attributes:
        cameras: cameras whose pixels are followed, evenly spread over the rig's order; at least two, to be held against
            each other.
        size: pictures are scaled so that the longer side has at most this many pixels.
        moments: frames, evenly spaced, of which the median is taken.
        depths: depths tried along each ray, evenly spaced in inverse depth.
        neighbours: cameras nearest to the pixel's own in which patches are compared; the better half of them counts, the
            others may be behind something.
        window: side of a patch in pixels, odd.
        difference: largest mean difference of the colours of two patches of the same surface, below 0.2.
        agreeing: other cameras that have to come to the same depth, or all others where there are fewer.
    """

    cameras: int = 8
    size: int = 160
    moments: int = 12
    depths: int = 96
    neighbours: int = 4
    window: int = 5
    difference: float = 0.03
    agreeing: int = 2

    def __post_init__(self) -> None:
        smallest = {"cameras": 2, "depths": 3, "agreeing": 0}
        for field in fields(self):
            least = smallest.get(field.name, 1)
            if field.name != "difference" and getattr(self, field.name) < least:
                raise ConfigError(f"surface: expected {field.name} ≥ {least}, got {getattr(self, field.name)}.")
        if self.window % 2 == 0:
            raise ConfigError(f"surface: expected an odd window, got {self.window}.")
        if not 0 < self.difference < OTHER_SURFACE:
            raise ConfigError(f"surface: expected difference in (0, {OTHER_SURFACE}), got {self.difference}.")


@dataclass(frozen=True)
class _Seen:
    """What a camera mostly sees, and how deep its pixels are found to be."""

    camera: Camera
    picture: Float[Tensor, "3 h w"]
    inverse: Float[Tensor, "h w"]  # depth along camera z
    found: Bool[Tensor, "h w"]  # whether one depth stands out
    step: float  # of the search, in inverse depth

    @property
    def points(self) -> Float[Tensor, "h w 3"]:
        start, along = unit_rays(self.camera)
        return start + along / self.inverse[..., None]


def surface_points(
    scene: Scene, config: SurfaceConfig = SurfaceConfig(), *, cameras: tuple[int, ...] | None = None, progress: bool = True
) -> PointCloud:
    """Points and colours of surfaces that stand still; there may be none.

    Held-out cameras are not looked at. The points come camera by camera and row by row: draw from them
    (:func:`moegs.gaussians.cloud.drawn`) to have fewer.

    Args:
        scene: the clip; its points say how deep to search.
        config: how hard to look.
        cameras: training cameras to look at instead of all of them.
        progress: show a bar when it takes more than two seconds.

    Raises:
        ConfigError: a camera is held out or not there.
    """
    chosen = scene.training_cameras(cameras)
    if len(chosen) < 2:
        return PointCloud(torch.zeros(0, 3), torch.zeros(0, 3))
    rig = tuple(small_camera(scene.cameras[i], config.size) for i in chosen)
    compared, followed = nearest_cameras(rig, config.neighbours), _spread(len(rig), config.cameras)
    needed = sorted({*followed, *compared[followed].nonzero()[:, 1].tolist()})
    with progress_bar("Looking for surfaces", len(needed) + len(followed), progress) as advance:
        frames = sorted({int((m + 0.5) * scene.n_frames / config.moments) for m in range(config.moments)})
        usual = {}
        for i in needed:
            usual[i] = pictures(scene, chosen[i], rig[i], frames).median(dim=0).values / 255
            advance()
        seen = []
        for i in followed:
            others = [(rig[j], usual[j]) for j in compared[i].nonzero()[:, 0].tolist()]
            seen.append(_search(rig[i], usual[i], others, depth_range(rig[i], scene), config))
            advance()
    agreed = [_agreed(one, [s for s in seen if s is not one], config.agreeing) for one in seen]
    points = torch.cat([s.points[kept] for s, kept in zip(seen, agreed, strict=True)])
    return PointCloud(points, torch.cat([s.picture.movedim(0, -1)[kept] for s, kept in zip(seen, agreed, strict=True)]))


def _spread(n: int, wanted: int) -> list[int]:
    """Up to ``wanted`` of n numbers, evenly spaced, the first and the last among them."""
    return sorted({round(i * (n - 1) / (wanted - 1)) for i in range(wanted)})


def _search(
    camera: Camera,
    picture: Float[Tensor, "3 h w"],
    others: list[tuple[Camera, Float[Tensor, "3 _ _"]]],
    bounds: tuple[float, float],
    config: SurfaceConfig,
) -> _Seen:
    """The best depth of every pixel, between two steps of the search by a parabola through the costs."""
    first, last = 1 / bounds[0], 1 / bounds[1]
    inverses = torch.linspace(first, last, config.depths)
    cost = torch.cat([_differences(camera, picture, others, z, config.window) for z in inverses.split(AT_ONCE)])
    least, best = cost.min(dim=0)
    middle = best.clamp(1, config.depths - 2)
    before, here, after = (cost.gather(0, (middle + offset)[None])[0] for offset in (-1, 0, 1))
    bent = before - 2 * here + after
    offset = torch.where(bent > 1e-6, (before - after) / (2 * bent.clamp_min(1e-6)), 0.0).clamp(-0.5, 0.5)
    step = (last - first) / (config.depths - 1)
    as_good = (cost < least + AS_GOOD).float().mean(0)
    found = (least < config.difference) & (best == middle) & (as_good <= AMBIGUOUS)  # the first and last may go on outside
    return _Seen(camera, picture, first + (middle + offset) * step, found, abs(step))


def _differences(
    camera: Camera,
    picture: Float[Tensor, "3 h w"],
    others: list[tuple[Camera, Float[Tensor, "3 _ _"]]],
    inverses: Float[Tensor, "d"],
    window: int,
) -> Float[Tensor, "d h w"]:
    """How unlike the patches around a pixel are in the better half of the other cameras, at some depths."""
    start, along = unit_rays(camera)
    points = (start + along[:, :, None] / inverses[:, None]).flatten(0, 1)
    size = (len(inverses), camera.height, camera.width)
    costs = []
    for other, seen in others:
        sampled, inside, _ = look_up(other, seen, points)
        gap = (sampled - picture.flatten(1).T[:, None]).abs().mean(-1).clamp_max(OTHER_SURFACE)
        gap = torch.where(inside > 0, gap, OTHER_SURFACE).T.reshape(size)
        costs.append(avg_pool2d(gap, window, 1, window // 2, count_include_pad=False))
    better = (len(costs) + 1) // 2
    return torch.stack(costs).sort(dim=0).values[:better].mean(0)


def _agreed(one: _Seen, others: list[_Seen], wanted: int) -> Bool[Tensor, "h w"]:
    """Where a depth was found, and enough of the others found the same."""
    points = one.points.flatten(0, 1)[:, None]
    agreeing = torch.zeros(len(points))
    for other in others:
        layers = torch.stack([other.inverse, other.found.float()])
        sampled, inside, z = look_up(other.camera, layers, points, mode="nearest")
        same = (sampled[..., 0] - 1 / z).abs() < SAME_DEPTH * other.step
        agreeing += (same & (sampled[..., 1] > 0.5) & (inside > 0))[:, 0]
    return one.found & (agreeing >= min(wanted, len(others))).view_as(one.found)
