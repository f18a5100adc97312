"""Points of what moves or appears after the first frame: a plane sweep over the pixels that change.

A capture's own points show one moment; a ball that flies through the room later has none, and no gradient on the image
plane can make Gaussians where there are none. For some moments of the clip, pixels that differ from their camera's
temporal median are followed along their rays: the depth at which nearby cameras see the same colour, and most cameras
see a change too, is a point with the time it was seen. It stands in for the structure-from-motion of every frame that
SpacetimeGaussians starts from, takes seconds, and needs nothing but the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from moegs.data._project import depth_range, look_up, nearest_cameras, pictures, small_camera, unit_rays
from moegs.data.scene import Scene
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud, drawn, joined
from moegs.progress import progress_bar
from moegs.render.camera import Camera

SAME_SURFACE = 0.08  # mean difference of colours up to which two cameras may see the same
WORST_DIFFERENCE = 0.25  # colours that differ more are another surface, however much more
PATCH, OPTIONS = 8, 24  # points that move together, and places that they may move to
FASTEST = 0.1  # of the depth of the scene from one moment to the other
TRIED = 1.5  # pixels for every point that is wanted: not every depth can be told
CROWD = 4  # times its even share of all pixels that one moment may have: a flash changes everything at once
CROWDED = 50_000  # pixels that one moment may have where little else changes
AT_ONCE = 2**22  # distances between points looked at together
LASTING = 3  # frames: what is there for less is seen too seldom to be worth as many Gaussians
INERTIA = 0.8  # another place must fit a fifth better than to stand still

Points = tuple[Tensor, Tensor]  # positions and colours, [n, 3] each


@dataclass(frozen=True)
class SweepConfig:
    """How hard to look.

    Attributes:
        candidates: pixels followed, over all moments and cameras; more where more points are wanted.
        moments: pairs of frames that are looked at, evenly spaced.
        size: cameras are scaled so that the longer side has at most this many pixels.
        change: a pixel has changed when a channel differs by more than this from its median over the moments.
        depths: depths tried along each ray, evenly spaced in inverse depth.
        neighbours: cameras nearest to the pixel's own in which colours are compared; two of them have to agree.
        quorum: least share of the neighbours in view of a point that must agree on its colour, and of all cameras that
            must see a change there; the others may be behind something.
        seed: draws the candidates.
    """

    candidates: int = 12_000
    moments: int = 16
    size: int = 320
    change: float = 0.06
    depths: int = 128
    neighbours: int = 4
    quorum: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = {"candidates": 1, "moments": 2, "size": 1, "depths": 2, "neighbours": 2}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"sweep: expected {name} ≥ {least}, got {getattr(self, name)}.")
        for name in ("change", "quorum"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"sweep: expected {name} in (0, 1], got {getattr(self, name)}.")


def with_moving_points(
    scene: Scene,
    config: SweepConfig = SweepConfig(),
    *,
    places: int | None = None,
    cameras: tuple[int, ...] | None = None,
    progress: bool = True,
) -> PointCloud:
    """The scene's own points, there throughout, and those of :func:`moving_points` (which see).

    The latter take at most as large a part of ``places`` as of the pixels ever changes; less where a point is there for
    under three frames, as in clips of a few. ``places`` is how many points or Gaussians are to show the scene, by default
    as many as the scene has points.
    """
    own = scene.cloud
    found, most = _found(scene, config, len(own) if places is None else places, cameras, progress)
    return joined(own, drawn(found, most, config.seed))


@dataclass(frozen=True)
class _Rig:
    """The training cameras at working size."""

    cameras: tuple[Camera, ...]
    near: Float[Tensor, "c"]
    far: Float[Tensor, "c"]
    compared: Bool[Tensor, "c c"]
    reach: float


def moving_points(
    scene: Scene, config: SweepConfig = SweepConfig(), *, cameras: tuple[int, ...] | None = None, progress: bool = True
) -> PointCloud:
    """Points, colours, times and velocities of what is not where it mostly is; there may be none.

    Held-out cameras are not looked at. ``spans`` of the result is ``2 / config.moments``, at most 1. It takes three
    cameras to tell how far away a thing is that moves: with fewer there are no points.

    Args:
        scene: the clip; its points say how deep to search.
        config: how hard to look.
        cameras: training cameras to look at instead of all of them.
        progress: show a bar when it takes more than two seconds.

    Raises:
        ConfigError: a camera is held out or not there.
    """
    return _found(scene, config, 0, cameras, progress)[0]


def _found(
    scene: Scene, config: SweepConfig, places: int, cameras: tuple[int, ...] | None, progress: bool
) -> tuple[PointCloud, int]:
    """Points on what changes, and how many of some places are theirs by its part of the pictures."""
    chosen = scene.training_cameras(cameras)
    if len(chosen) < 3:
        return PointCloud(torch.zeros(0, 3), torch.zeros(0, 3)), 0
    frames, span = _frames(scene.n_frames, config.moments), min(1.0, 2 / config.moments)
    rig = _rig(scene, chosen, config)
    moments = range(len(frames))
    with progress_bar("Looking for what moves", len(chosen) + 2 * len(frames), progress) as advance:
        stacks = []
        for index, camera in zip(chosen, rig.cameras, strict=True):
            stacks.append(pictures(scene, index, camera, frames))
            advance()
        changed = [_changed(seen, config.change) for seen in stacks]
        wanted = round(places * _ever(changed) * min(1.0, span * scene.n_frames / LASTING))
        pixels = _candidates(changed, max(config.candidates, round(TRIED * wanted)), config.seed)
        found = []
        for moment in moments:
            found.append(_follow(rig, _pictures(stacks, moment), [c[moment] for c in changed], pixels[moment], config))
            advance()
        times = [scene.time(frame) for frame in frames]
        velocities = []
        for here in moments:
            ways = [
                (_flow(rig, _pictures(stacks, there), found[here], found[there]), times[there] - times[here])
                for there in _partners(frames, here)
            ]
            velocities.append(_best_way(found[here][0], ways))
            advance()
    return _joined(found, times, velocities, span), wanted


def _frames(n_frames: int, moments: int) -> list[int]:
    """Each moment is a frame and the one after it, so that motion shows."""
    firsts = {int(f) for f in (torch.arange(moments) + 0.5) * n_frames / moments}
    return sorted(firsts | {f + 1 for f in firsts if f + 1 < n_frames})


def _partners(frames: list[int], here: int) -> list[int]:
    """The moments to measure motion against: the one before and the one after, or the nearer of them."""
    others = [m for m in (here - 1, here + 1) if 0 <= m < len(frames)]
    nearest = min((abs(frames[m] - frames[here]) for m in others), default=0)
    return [m for m in others if abs(frames[m] - frames[here]) == nearest]


def _rig(scene: Scene, chosen: tuple[int, ...], config: SweepConfig) -> _Rig:
    cameras = tuple(small_camera(scene.cameras[i], config.size) for i in chosen)
    ranges = torch.tensor([depth_range(camera, scene) for camera in cameras])
    compared = nearest_cameras(cameras, config.neighbours)
    return _Rig(cameras, ranges[:, 0], ranges[:, 1], compared, float(ranges[:, 1].median()))


def _pictures(stacks: list[UInt8[Tensor, "m 3 h w"]], moment: int) -> list[Float[Tensor, "3 h w"]]:
    return [seen[moment] / 255 for seen in stacks]


def _changed(seen: UInt8[Tensor, "m 3 h w"], threshold: float) -> Bool[Tensor, "m h w"]:
    usual = seen.median(dim=0).values.short()
    return torch.stack([((image.short() - usual).abs() > 255 * threshold).any(dim=0) for image in seen])


def _ever(changed: list[Bool[Tensor, "m h w"]]) -> float:
    """Part of the pixels that change at some moment, mean over the cameras."""
    return sum(float(mask.any(0).float().mean()) for mask in changed) / max(len(changed), 1)


def _candidates(changed: list[Bool[Tensor, "m h w"]], count: int, seed: int) -> list[Int[Tensor, "n 3"]]:
    """For every moment: camera, row and column of some pixels that changed.

    The more rarely a pixel changes, the likelier it is drawn: what flies past is there once, what stays can be had later.
    """
    sizes = [[int(mask.sum()) for mask in masks] for masks in changed]
    luck = torch.empty(sum(map(sum, sizes))).exponential_(generator=torch.Generator().manual_seed(seed))
    lucks = [own.split(size) for own, size in zip(luck.split([sum(s) for s in sizes]), sizes, strict=True)]
    often, busy = [masks.sum(0) for masks in changed], sum(any(own) for own in zip(*sizes, strict=True))
    most = max(-(-CROWD * count // len(changed[0])), min(-(-count // max(busy, 1)), CROWDED))
    pixels, patience = [], []
    for moment in range(len(changed[0])):
        wait = torch.cat([own[moment] * n[masks[moment]] for own, n, masks in zip(lucks, often, changed, strict=True)])
        first = wait.sort(stable=True).indices[:most]
        where = [pad(masks[moment].nonzero(), (1, 0), value=camera) for camera, masks in enumerate(changed)]
        pixels.append(torch.cat(where)[first])
        patience.append(wait[first])
    latest = torch.cat(patience).sort().values[:count][-1:]
    return [p[wait <= latest] for p, wait in zip(pixels, patience, strict=True)]


def _follow(
    rig: _Rig, images: list[Tensor], changed: list[Tensor], pixels: Int[Tensor, "n 3"], config: SweepConfig
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k 3"]]:
    """Points and colours of the pixels whose depth can be told, one moment."""
    points, colors = _along_rays(rig, images, pixels, config.depths)
    difference, agreed, compared, silhouette, seen = torch.zeros(5, *points.shape[:2]).unbind(0)
    for index, camera in enumerate(rig.cameras):
        near_change = max_pool2d(changed[index][None].float(), 3, stride=1, padding=1)
        sampled, inside, _ = look_up(camera, torch.cat([images[index], near_change]), points)
        gap = (sampled[..., :3] - colors[:, None]).abs().mean(-1)
        near = inside * rig.compared[pixels[:, 0], index][:, None]
        alike = (gap < SAME_SURFACE) * near
        difference += gap * alike
        agreed += alike
        compared += near
        silhouette += (sampled[..., 3] > 0.5) * inside
        seen += inside
    believed = (agreed >= config.quorum * compared) & (agreed >= 2) & (silhouette >= config.quorum * seen)
    cost = difference / agreed.clamp_min(1) - agreed / compared.clamp_min(1)
    best, depth = cost.masked_fill(~believed, torch.inf).min(dim=1)
    kept = best.isfinite()
    return points[kept, depth[kept]], colors[kept]


def _along_rays(
    rig: _Rig, images: list[Tensor], pixels: Int[Tensor, "n 3"], depths: int
) -> tuple[Float[Tensor, "n d 3"], Float[Tensor, "n 3"]]:
    points, colors = torch.zeros(len(pixels), depths, 3), torch.zeros(len(pixels), 3)
    steps = torch.linspace(0, 1, depths)
    for index, camera in enumerate(rig.cameras):
        mine = pixels[:, 0] == index
        row, column = pixels[mine, 1], pixels[mine, 2]
        start, along = unit_rays(camera)
        z = 1 / torch.lerp(1 / rig.near[index], 1 / rig.far[index], steps)
        points[mine] = start + along[row, column][:, None] * z[None, :, None]
        colors[mine] = images[index][:, row, column].T
    return points, colors


def _flow(
    rig: _Rig, images: list[Tensor], here: Points, there: Points
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """How far each point moves until another moment, and how badly its neighbourhood fits there.

    Places to move to are points that were found at the other moment. To stand still is always among the choices, and
    wins unless another is clearly better.
    """
    points, colors = here
    if not len(points) or not len(there[0]):
        return torch.zeros_like(points), torch.full_like(points[:, 0], torch.inf)
    near = torch.cat([_apart(some, points).topk(min(PATCH, len(points)), largest=False).indices
                      for some in points.split(_rows(points))])  # fmt: skip
    moves = _options(rig, here, there)
    moved = (points[near][:, None] + moves[:, :, None]).flatten(1, 2)
    wanted = colors[near][:, None].expand(-1, moves.shape[1], -1, -1).flatten(1, 2)
    gap, seen = torch.zeros(2, *moved.shape[:2]).unbind(0)
    for camera, image in zip(rig.cameras, images, strict=True):
        sampled, inside, _ = look_up(camera, image, moved)
        gap += (sampled - wanted).abs().mean(-1).clamp_max(WORST_DIFFERENCE) * inside
        seen += inside
    cost = (gap / seen.clamp_min(1)).unflatten(1, moves.shape[1:2] + near.shape[1:]).mean(-1)
    cost[:, 0] *= INERTIA
    least, best = cost.min(dim=1)
    return moves[torch.arange(len(points)), best][near].median(dim=1).values, least


def _options(rig: _Rig, here: Points, there: Points) -> Float[Tensor, "n o 3"]:
    """Displacements to points of like colour within reach; the first stands still."""
    moves = []
    for points, colors in zip(*(h.split(_rows(there[0])) for h in here), strict=True):
        apart = _apart(points, there[0])
        unlike = _apart(colors, there[1]) + (apart / rig.reach).masked_fill(apart > FASTEST * rig.reach, torch.inf)
        chosen = unlike.topk(min(OPTIONS, len(there[0])), largest=False)
        moves.append((there[0][chosen.indices] - points[:, None]) * chosen.values.isfinite()[:, :, None])
    return pad(torch.cat(moves), (0, 0, 1, 0))


def _apart(some: Float[Tensor, "n 3"], others: Float[Tensor, "m 3"]) -> Float[Tensor, "n m"]:
    """Distances, exact far from the origin too."""
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")


def _rows(others: Tensor) -> int:
    """How many points to compare with all others at once."""
    return max(AT_ONCE // max(len(others), 1), 1)


def _best_way(points: Tensor, ways: list[tuple[tuple[Tensor, Tensor], float]]) -> Float[Tensor, "n 3"]:
    """Velocities by the moment that fits best: what has just come shows none against the moment before."""
    if not ways:
        return torch.zeros_like(points)
    costs = torch.stack([cost for (_, cost), _ in ways])
    rates = torch.stack([moves / ahead for (moves, _), ahead in ways])
    return rates[costs.argmin(dim=0), torch.arange(len(points))]


def _joined(found: list[Points], times: list[float], velocities: list[Tensor], span: float) -> PointCloud:
    when = torch.cat([torch.full((len(points),), time) for (points, _), time in zip(found, times, strict=True)])
    points, colors = (torch.cat(parts) for parts in zip(*found, strict=True))
    return PointCloud(points, colors, when, torch.full_like(when, span), torch.cat(velocities))
