"""Which expert wins where and when: by how a camera's picture moves, and frame by frame (MoE-GS, figure 1)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from moegs.data import Scene
from moegs.errors import ConfigError, ShapeError
from moegs.expert import Expert
from moegs.report.pictures import Picture, contact_sheet, to_uint8
from moegs.route.render import render_experts

REGIONS = ("static", "slow", "fast")

# one colour an expert, told apart by colour-blind readers too (Okabe and Ito); they repeat after seven
COLORS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66),
)  # fmt: skip
_GREYS = (40, 140, 240)


def motion_regions(
    frames: Iterable[Float[Tensor, "h w 3"]], *, floor: float = 0.015, fast_share: float = 1 / 3
) -> Int[Tensor, "h w"]:
    """Label the pixels of a still camera by how they change: 0 static, 1 slow, 2 fast, see :data:`REGIONS`.

    A pixel is static when its standard deviation over the clip is not above ``floor`` and three times the noise. Of the
    others, the ``fast_share`` with the greatest change from one frame to the next is fast. Pictures are averaged over
    3x3 pixels first; the noise is read off the least changing quarter of the picture. Frames are gone through once.

    Args:
        frames: photographs of one camera in order, RGB in [0, 1].
        floor: least standard deviation of what moves.
        fast_share: fraction of the moving pixels that counts as fast.

    Raises:
        ConfigError: there are fewer than two frames.

    Example:
        >>> frames = torch.full((4, 8, 8, 3), 0.5)
        >>> frames[:, :, 5:] += torch.tensor([0.0, 0.4, 0.0, 0.4])[:, None, None, None]
        >>> motion_regions(frames)[0].tolist()
        [0, 0, 0, 0, 1, 1, 2, 2]
    """
    deviation, change = _statistics(frames)
    noise = float(change.flatten().kthvalue(max(change.numel() // 4, 1)).values) / math.sqrt(2)
    moving = deviation > max(floor, 3 * noise)
    labels = moving.long()
    if bool(moving.any()):
        ordered = change[moving].sort().values
        limit = ordered[min(int((1 - fast_share) * len(ordered)), len(ordered) - 1)]
        labels[moving & (change >= limit)] = 2
    return labels


def _statistics(frames: Iterable[Float[Tensor, "h w 3"]]) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Standard deviation over the clip, and root mean square change from frame to frame."""
    n, before = 0, None
    for n, frame in enumerate(frames, 1):
        image = _smooth(frame.double().permute(2, 0, 1), 3)
        if before is None:
            before = mean = image
            spread = change = torch.zeros_like(image)
        step = image - mean
        mean = mean + step / n
        spread = spread + step * (image - mean)
        change = change + (image - before).square()
        before = image
    if n < 2:
        raise ConfigError(f"motion_regions: expected two frames or more, got {n}.")
    return (spread / n).mean(0).sqrt(), (change / (n - 1)).mean(0).sqrt()


def _smooth(maps: Float[Tensor, "k h w"], size: int) -> Float[Tensor, "k h w"]:
    return avg_pool2d(maps[None], size, stride=1, padding=size // 2, count_include_pad=False)[0]


@torch.no_grad()
def error_maps(
    experts: Sequence[Expert], scene: Scene, camera: int, *, backend: str = "auto"
) -> Float[Tensor, "k h w"]:
    """Squared error of each expert at every pixel of a camera, mean over channels and frames."""
    view = scene.cameras[camera]
    total = torch.zeros(len(experts), view.height, view.width)
    for frame in range(scene.n_frames):
        images = render_experts(experts, scene.cameras[camera], scene.time(frame), backend=backend).color.cpu()
        total += (images.clamp(0, 1) - scene.image(camera, frame)).square().mean(-1)
    return total / scene.n_frames


def region_scores(
    errors: Float[Tensor, "k h w"], labels: Int[Tensor, "h w"], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What each expert reaches in each region, JSON-ready; regions without pixels are left out.

    ``share`` is the region's part of the picture, ``psnr`` that of the mean error over its pixels and all frames (null
    where it is infinite), ``wins`` the part of its pixels on which an expert has the least error, ``best`` the expert
    with the least mean error.

    Raises:
        ShapeError: errors, labels and names do not belong together.
    """
    if errors.shape[1:] != labels.shape or len(errors) != len(names):
        raise ShapeError(
            f"region_scores: errors {list(errors.shape)}, labels {list(labels.shape)} and {len(names)} names differ."
        )
    winner = errors.argmin(0)
    whole = {"all": torch.ones_like(labels, dtype=torch.bool)}
    masks = whole | {name: labels == i for i, name in enumerate(REGIONS)}
    return {name: _in_region(errors, winner, mask, names) for name, mask in masks.items() if bool(mask.any())}


def _in_region(errors: Tensor, winner: Tensor, mask: Tensor, names: Sequence[str]) -> dict[str, Any]:
    means = errors[:, mask].double().mean(1)
    wins = torch.bincount(winner[mask], minlength=len(names)) / mask.sum()
    return {
        "share": float(mask.double().mean()),
        "psnr": {n: -10 * math.log10(e) if e > 0 else None for n, e in zip(names, means.tolist(), strict=True)},
        "wins": dict(zip(names, wins.tolist(), strict=True)),
        "best": names[int(means.argmin())],
    }


def frame_scores(curves: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Who wins frame by frame, JSON-ready: ``psnr`` of every expert and frame, the ``best`` of each, how many ``wins``.

    Raises:
        ShapeError: the curves differ in length.
    """
    if len({len(curve) for curve in curves.values()}) > 1:
        raise ShapeError(f"frame_scores: curves of {', '.join(str(len(c)) for c in curves.values())} frames differ.")
    best = [max(curves, key=lambda name: curves[name][i]) for i in range(len(next(iter(curves.values()), ())))]
    counted = Counter(best)
    shown = {name: [p if math.isfinite(p) else None for p in curve] for name, curve in curves.items()}
    return {"psnr": shown, "best": best, "wins": {name: counted[name] for name in curves}}


def win_map(errors: Float[Tensor, "k h w"], *, window: int = 7, full_scale: float = 2.0) -> Picture:
    """The colour of the expert with the least error around each pixel; paler where the next best is nearly as good.

    Args:
        errors: squared errors, see :func:`error_maps`.
        window: errors are averaged over this many pixels squared.
        full_scale: lead in dB from which the colour is full.
    """
    ordered = _smooth(errors.double(), window).clamp_min(1e-12).sort(0)
    colors = torch.tensor(COLORS)[ordered.indices[0] % len(COLORS)] / 255
    lead = (10 * (ordered.values[min(1, len(errors) - 1)] / ordered.values[0]).log10() / full_scale).clamp(0, 1)
    return to_uint8(torch.lerp(torch.ones_like(colors), colors, (0.15 + 0.85 * lead)[..., None].float()))


def regions_sheet(
    photograph: Float[Tensor, "h w 3"],
    errors: Float[Tensor, "k h w"],
    labels: Int[Tensor, "h w"],
    names: Sequence[str],
) -> Picture:
    """Photograph, regions (dark static, grey slow, bright fast) and win map, with the experts' colours below."""
    greys = np.asarray(_GREYS, dtype=np.uint8)[labels.cpu().numpy()]
    regions = np.repeat(greys[..., None], 3, axis=2)
    legend = [(n, np.full((12, 112, 3), COLORS[i % len(COLORS)], np.uint8)) for i, n in enumerate(names)]
    pictures = [("photograph", to_uint8(photograph)), ("static, slow, fast", regions), ("best", win_map(errors))]
    return contact_sheet([pictures, *(legend[i : i + 3] for i in range(0, len(legend), 3))])


def ranking(scores: Mapping[str, float | None]) -> str:
    """Names and dB, best first; a score that is null is infinite.

    Example:
        >>> ranking({"polynomial": 28.52, "hexplane": 30.0})
        'hexplane 30.00, polynomial 28.52'
    """
    values = {name: math.inf if score is None else score for name, score in scores.items()}
    return ", ".join(f"{name} {values[name]:.2f}" for name in sorted(values, key=lambda name: -values[name]))
