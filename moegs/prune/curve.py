"""How quality falls as more is pruned, by criterion."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from moegs.data import Scene, View
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert
from moegs.io import atomic_write, finite, write_json
from moegs.progress import tracked
from moegs.prune.scores import CRITERIA, criterion
from moegs.prune.select import Score, prune
from moegs.report.plots import as_png, new_figure
from moegs.route.mixture import Mixture
from moegs.train.evaluate import evaluate, mixture_renderer

RATIOS = (0.0, 0.2, 0.4, 0.55, 0.7, 0.85)


@dataclass(frozen=True)
class CurvePoint:
    """One pruned mixture on the held-out cameras.

    Attributes:
        criterion: what Gaussians were ranked by.
        ratio: fraction dropped.
        gaussians: how many are left.
        psnr: dB.
        ssim: INRIA convention.
        megabytes: of all tensors.
        ms: milliseconds a frame.
    """

    criterion: str
    ratio: float
    gaussians: int
    psnr: float
    ssim: float
    megabytes: float
    ms: float


def megabytes(model: Mixture | Expert) -> float:
    """Size of all tensors: of an expert, or of a mixture's experts and router."""
    if isinstance(model, Expert):
        owners: list[Mapping[str, Tensor]] = [model.params]
    else:
        owners = [*(e.params for e in model.experts.values()), model.router.state_dict()]
    return sum(t.numel() * t.element_size() for owner in owners for t in owner.values()) / 1e6


def pruning_curve(
    mixture: Mixture,
    scene: Scene,
    views: Iterable[View],
    ratios: Sequence[float] = RATIOS,
    *,
    criteria: Mapping[str, Score] | None = None,
    refit: Callable[[Mixture], Mixture] | None = None,
    every: int = 1,
    known: Sequence[CurvePoint] = (),
    keep: Callable[[Sequence[CurvePoint]], None] | None = None,
    progress: bool = True,
) -> list[CurvePoint]:
    """Prune by each criterion and ratio, refit if asked, and score on the held-out cameras.

    Ratios are taken in ascending order, each from the one before, with scores taken afresh: as in
    :func:`moegs.prune.prune_in_rounds`, for every criterion alike.

    Args:
        mixture: what to prune.
        scene: the clip.
        views: training views to score Gaussians on; gone through once a point.
        ratios: fractions of all Gaussians to drop.
        criteria: names and scores; all that suit the router by default.
        refit: what is done to each mixture before it is scored, the whole one included, so that all have learnt for as
            long; the next ratio goes on without it.
        every: score each ``every``-th frame.
        known: points that an earlier run of the same settings has found, which are not found again.
        keep: called with all points so far after each of them, to write them down.
        progress: show a bar.

    Raises:
        ConfigError: no ratios, one that is not in [0, 1), or views that can be gone through only once.
    """
    if not ratios or not all(0 <= r < 1 for r in ratios):
        raise ConfigError(f"ratios: expected fractions in [0, 1), got {list(ratios)}.")
    if iter(views) is views:
        raise ConfigError("views: gone through once a point; give a list or sample_views(), not an iterator.")
    chosen = suited(mixture) if criteria is None else criteria
    points: list[CurvePoint] = []
    total, pruned = sum(mixture.router.counts), mixture
    wanted = [(n, r) for n in chosen for r in sorted(ratios)]
    found = {(p.criterion, p.ratio): p for p in known}
    for name, ratio in tracked(wanted, "curve", len(wanted), progress):
        pruned = mixture if ratio == min(ratios) else pruned
        left = total - int(ratio * total)
        if left < sum(pruned.router.counts):
            pruned, _ = prune(pruned, chosen[name](pruned, views), keep=left)
        whole = next((p for p in points if not ratio and not p.ratio), None)  # is the same by every criterion
        if (name, ratio) in found:
            points.append(found[name, ratio])
        elif whole is None:
            shown = pruned if refit is None else refit(pruned)
            points.append(_point(name, ratio, shown, scene, every))
        else:
            points.append(replace(whole, criterion=name))
        if keep is not None:
            keep(points)
    return points


def _point(name: str, ratio: float, mixture: Mixture, scene: Scene, every: int) -> CurvePoint:
    found = evaluate(mixture_renderer(mixture), scene, every=every)
    scores, ms = found.mean, found.ms_per_frame
    return CurvePoint(
        name, ratio, sum(mixture.router.counts), scores.psnr, scores.ssim_inria, megabytes(mixture), ms
    )


def suited(mixture: Mixture, seed: int = 0) -> dict[str, Score]:
    """The criteria that the mixture's router has the weights for, and gates to move; ``seed`` is of those that draw."""
    moves = mixture.router.config.kind != "pixel" and len(mixture.experts) > 1
    return {n: criterion(n, seed) for n in CRITERIA if moves or n != "gate"}


def read_points(folder: str | Path, settings: Mapping[str, Any]) -> list[CurvePoint]:
    """What :func:`write_points` left in a folder; none where there is nothing yet.

    Args:
        folder: where ``curve.json`` is.
        settings: what its ``settings`` must be.

    Raises:
        FormatError: it is damaged.
        ConfigError: it was made with other settings.
    """
    path = Path(folder) / "curve.json"
    if not path.exists():
        return []
    try:
        saved = json.loads(path.read_bytes())
        rows: list[dict[str, Any]] = saved["points"]
        numbers: list[dict[str, Any]] = [{k: math.inf if v is None else v for k, v in row.items()} for row in rows]
        points = [CurvePoint(**row) for row in numbers]
        before = saved.get("settings", {})
        odd = [key for key, value in settings.items() if before.get(key) != value]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: not a readable curve ({error}); delete it to start over.") from error
    if odd:
        raise ConfigError(f"{path}: was begun with another {odd[0]}; resume with the same settings, or name another folder.")
    return points


def write_points(points: Sequence[CurvePoint], folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write ``curve.json``, of a curve that may not be finished."""
    write_json(Path(folder) / "curve.json", dict(about or {}) | {"points": [finite(asdict(p)) for p in points]})


def write_curve(points: Sequence[CurvePoint], folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write ``curve.json`` and, last, ``curve.png``.

    Raises:
        BackendError: the ``report`` extra, which draws the picture, is not installed; the JSON is there all the same.
    """
    folder = Path(folder)
    write_points(points, folder, about)
    with atomic_write(folder / "curve.png") as file:
        file.write(draw_curve(points))


def draw_curve(points: Sequence[CurvePoint]) -> bytes:
    """PSNR over the fraction dropped, one line a criterion, as PNG.

    Raises:
        BackendError: the ``report`` extra is not installed.
    """
    figure = new_figure("the curve's picture", (6.4, 4.2))
    axes = figure.add_subplot()
    for name in dict.fromkeys(p.criterion for p in points):
        line = [p for p in points if p.criterion == name]
        axes.plot([100 * p.ratio for p in line], [p.psnr for p in line], marker="o", markersize=3, label=name)
    axes.set(xlabel="Gaussians dropped, %", ylabel="PSNR on held-out cameras, dB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return as_png(figure)
