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

from moegs.data._project import depth_range, look_up, nearest_cameras, pictures, small_camera
from moegs.data.scene import Scene
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.progress import progress_bar
from moegs.render.camera import Camera, rays

OTHER_SURFACE = 0.2  # colours that differ more are another surface, however much more
AT_ONCE = 16  # depths looked up together
SAME_DEPTH = 2.0  # steps of the search by which the depths of two cameras may differ


@dataclass(frozen=True)
class SurfaceConfig:
    """How hard to look.

    Attributes:
        cameras: cameras whose pixels are followed, evenly spread over the rig's order.
        size: pictures are scaled so that the longer side has at most this many pixels.
        moments: frames, evenly spaced, of which the median is taken.
        depths: depths tried along each ray, evenly spaced in inverse depth.
        neighbours: cameras nearest to the pixel's own in which patches are compared; the better half of them counts, the
            others may be behind something.
        window: side of a patch in pixels, odd.
        difference: largest mean difference of the colours of two patches of the same surface.
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
        smallest = {"depths": 3, "agreeing": 0}
        for field in fields(self):
            least = smallest.get(field.name, 1)
            if field.name != "difference" and getattr(self, field.name) < least:
                raise ConfigError(f"surface: expected {field.name} ≥ {least}, got {getattr(self, field.name)}.")
        if self.window % 2 == 0:
            raise ConfigError(f"surface: expected an odd window, got {self.window}.")
        if not 0 < self.difference <= 1:
            raise ConfigError(f"surface: expected difference in (0, 1], got {self.difference}.")


@dataclass(frozen=True)
class _Seen:
    """What a camera mostly sees, and how deep its pixels are found to be."""

    camera: Camera
    picture: Float[Tensor, "3 h w"]
    inverse: Float[Tensor, "h w"]  # depth along camera z
    alike: Bool[Tensor, "h w"]
    step: float  # of the search, in inverse depth

    @property
    def points(self) -> Float[Tensor, "h w 3"]:
        start, along = _unit_rays(self.camera)
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
    """
    chosen = scene.train if cameras is None else cameras
    rig = tuple(small_camera(scene.cameras[i], config.size) for i in chosen)
    compared, followed = nearest_cameras(rig, config.neighbours), _spread(len(rig), config.cameras)
    if len(rig) < 2:
        return PointCloud(torch.zeros(0, 3), torch.zeros(0, 3))
    with progress_bar("Looking for surfaces", len(rig) + len(followed), progress) as advance:
        frames = sorted({int((m + 0.5) * scene.n_frames / config.moments) for m in range(config.moments)})
        usual = []
        for index, camera in zip(chosen, rig, strict=True):
            usual.append(pictures(scene, index, camera, frames).median(dim=0).values / 255)
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
    """Up to ``wanted`` of n numbers, evenly spaced."""
    if wanted >= n:
        return list(range(n))
    return sorted({round(i * (n - 1) / max(wanted - 1, 1)) for i in range(wanted)})


def _unit_rays(camera: Camera) -> tuple[Float[Tensor, "3"], Float[Tensor, "h w 3"]]:
    """Where a camera's rays begin, and how far they go for each unit of camera z."""
    ray = rays(camera)
    return ray[0, 0, :3], ray[..., 3:] / (ray[..., 3:] @ camera.viewmat[2, :3])[..., None]


def _search(
    camera: Camera,
    picture: Float[Tensor, "3 h w"],
    others: list[tuple[Camera, Float[Tensor, "3 h w"]]],
    bounds: tuple[float, float],
    config: SurfaceConfig,
) -> _Seen:
    """The best depth of every pixel, between two steps of the search by a parabola through the costs."""
    near, far = 1 / bounds[0], 1 / bounds[1]
    inverses = torch.linspace(near, far, config.depths)
    cost = torch.cat([_differences(camera, picture, others, z, config.window) for z in inverses.split(AT_ONCE)])
    least, best = cost.min(dim=0)
    middle = best.clamp(1, config.depths - 2)
    before, here, after = (cost.gather(0, (middle + offset)[None])[0] for offset in (-1, 0, 1))
    bent = before - 2 * here + after
    offset = torch.where(bent > 1e-6, (before - after) / (2 * bent.clamp_min(1e-6)), 0.0).clamp(-0.5, 0.5)
    step = (far - near) / (config.depths - 1)
    return _Seen(camera, picture, near + (middle + offset) * step, least < config.difference, abs(step))


def _differences(
    camera: Camera,
    picture: Float[Tensor, "3 h w"],
    others: list[tuple[Camera, Float[Tensor, "3 h w"]]],
    inverses: Float[Tensor, "d"],
    window: int,
) -> Float[Tensor, "d h w"]:
    """How unlike the patches around a pixel are in the better half of the other cameras, at some depths."""
    start, along = _unit_rays(camera)
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
    """Where patches were alike, and enough of the others come to the same depth."""
    points = one.points.flatten(0, 1)[:, None]
    agreeing = torch.zeros(len(points))
    for other in others:
        inverse, inside, z = look_up(other.camera, other.inverse[None], points, mode="nearest")
        same = (inverse[..., 0] - 1 / z).abs() < SAME_DEPTH * other.step
        agreeing += (same & (inside > 0))[:, 0]
    return one.alike & (agreeing >= min(wanted, len(others))).view_as(one.alike)
