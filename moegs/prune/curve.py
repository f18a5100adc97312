"""How quality falls as more is pruned, by criterion."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from moegs.data import Scene
from moegs.errors import BackendError
from moegs.io import atomic_write, write_json
from moegs.prune.select import prune
from moegs.route.mixture import Mixture
from moegs.train.evaluate import evaluate, mixture_renderer
from moegs.train.route import RouteConfig, fit_router

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


def refit_router(scene: Scene, mixture: Mixture, steps: int, *, seed: int = 0, progress: bool = True) -> Mixture:
    """A short router fit that continues from the mixture's own router, at a fifth of the usual rates."""
    if steps < 1:
        return mixture
    usual = RouteConfig()
    config = replace(
        usual, router=mixture.router.config, steps=steps, seed=seed, lr_weights=usual.lr_weights / 5,
        lr_time=usual.lr_time / 5, lr_network=usual.lr_network / 5,
    )  # fmt: skip
    return fit_router(scene, mixture.experts, config, start=mixture.router, progress=progress)


def megabytes(mixture: Mixture) -> float:
    """Size of all tensors of experts and router."""
    owners = [*(e.params for e in mixture.experts.values()), mixture.router.state_dict()]
    return sum(t.numel() * t.element_size() for owner in owners for t in owner.values()) / 1e6


def pruning_curve(
    mixture: Mixture,
    scene: Scene,
    scores: Mapping[str, Float[Tensor, "n"]],
    ratios: Sequence[float] = RATIOS,
    *,
    refit: int = 0,
    every: int = 1,
    progress: bool = True,
) -> list[CurvePoint]:
    """Prune by each criterion and ratio, refit if asked, and score on the held-out cameras.

    Args:
        mixture: what to prune.
        scene: the clip.
        scores: criterion → one score a Gaussian.
        ratios: fractions of all Gaussians to drop.
        refit: router steps after each pruning.
        every: score each ``every``-th frame.
        progress: show a bar.
    """
    pairs = [(name, ratio) for name in scores for ratio in ratios]
    points = []
    for name, ratio in track(pairs, "pruning curve", disable=not progress, transient=True):
        pruned = prune(mixture, scores[name], ratio=ratio)[0] if ratio else mixture
        pruned = refit_router(scene, pruned, refit, progress=False) if ratio else pruned
        found = evaluate(mixture_renderer(pruned), scene, every=every)
        points.append(
            CurvePoint(
                name, ratio, sum(pruned.router.counts), found.mean.psnr, found.mean.ssim_inria, megabytes(pruned),
                found.ms_per_frame,
            )
        )  # fmt: skip
    return points


def write_curve(points: Sequence[CurvePoint], folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write ``curve.json`` and, last, ``curve.png``.

    Raises:
        BackendError: the ``report`` extra, which draws the picture, is not installed; the JSON is there all the same.
    """
    folder = Path(folder)
    write_json(folder / "curve.json", dict(about or {}) | {"points": [asdict(p) for p in points]})
    with atomic_write(folder / "curve.png") as file:
        file.write(draw_curve(points))


def draw_curve(points: Sequence[CurvePoint]) -> bytes:
    """PSNR over the fraction dropped, one line a criterion, as PNG.

    Raises:
        BackendError: the ``report`` extra is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError("the curve's picture needs the 'report' extra: pip install 'moegs[report]'.") from None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(p.criterion for p in points):
        line = [p for p in points if p.criterion == name]
        axes.plot([100 * p.ratio for p in line], [p.psnr for p in line], marker="o", markersize=3, label=name)
    axes.set(xlabel="Gaussians dropped, %", ylabel="PSNR on held-out cameras, dB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
