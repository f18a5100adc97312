"""What each table measures. A row names its series and its place on the table's axis, then figures by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from moegs import train
from moegs.distill import DistillConfig, distill, retrain
from moegs.expert import Expert, load_expert
from moegs.metrics import FrameScores
from moegs.prune import megabytes
from moegs.report.paper.bench import Bench, keep_expert
from moegs.report.paper.plan import content_key
from moegs.route import Mixture, render_experts
from moegs.train import expert_renderer, fewest_tiles, mixture_renderer, sparse_error, sparse_renderer
from moegs.train.evaluate import Renderer, milliseconds

Row = dict[str, Any]
AVERAGE, ORACLE, BEST = "uniform average", "per-pixel oracle", "best expert"
ROUTED, MIXTURE = "router alone", "mixture"


def expert_rows(bench: Bench, name: str) -> list[Row]:
    """One expert by itself."""
    expert = bench.expert(name)
    speed = _ms(bench, {name: expert_renderer(expert)})[name]
    size = {"gaussians": len(expert), "megabytes": megabytes(expert)}
    return [_row(name, 1, _scores(bench, expert_renderer(expert)), ms=speed, fps=1e3 / speed, **size)]


def mixture_rows(bench: Bench, names: Sequence[str], x: Any = None, **stage: Any) -> list[Row]:
    """A mixture with its router alone and refined, its experts' average, oracle and best; gains are over that one.

    Average, oracle and best are those of the experts as they were trained alone.
    """
    best, average, routed, oracle = routed_rows(bench, names, x, **stage)
    mixture = bench.refined(names, **stage)
    speed = _ms(bench, {MIXTURE: mixture_renderer(mixture)})[MIXTURE]
    size = {"gaussians": sum(mixture.router.counts), "megabytes": megabytes(mixture)}
    row = _row(MIXTURE, x, _scores(bench, mixture_renderer(mixture)), ms=speed, fps=1e3 / speed, **size)
    return [best, average, routed, *with_gains([row], best["psnr"], oracle["psnr"]), oracle]


def routed_rows(bench: Bench, names: Sequence[str], x: Any = None, **stage: Any) -> list[Row]:
    """The best expert, the experts' average, the router alone, and the oracle; gains are over the first."""
    routed = bench.mixture(names, **stage)
    singles = {n: _scores(bench, expert_renderer(e)) for n, e in routed.experts.items()}
    best = max(singles, key=lambda n: singles[n].psnr)
    found = train.yardsticks(routed, bench.scene, every=bench.plan.every)
    size = {"gaussians": sum(routed.router.counts), "megabytes": megabytes(routed)}
    rows = [
        _row(BEST, x, singles[best], expert=best),
        _row(AVERAGE, x, found[AVERAGE]),
        _row(ROUTED, x, _scores(bench, mixture_renderer(routed)), **size),
        _row(ORACLE, x, found[ORACLE]),
    ]
    return with_gains(rows, singles[best].psnr, found[ORACLE].psnr)


def with_gains(rows: list[Row], best: float, oracle: float) -> list[Row]:
    """Rows with decibels over the best expert, and the part of the way to the oracle that they go, if there is one."""
    gap = oracle - best
    way = [{"closed": (r["psnr"] - best) / gap} if gap > 0.05 else {} for r in rows]
    return [r | {"gain": r["psnr"] - best} | closed for r, closed in zip(rows, way, strict=True)]


def router_rows(bench: Bench, router: str) -> list[Row]:
    """A router of one kind; gains are added by those who know the best expert."""
    names = bench.plan.names
    if router == "volume":
        merged = bench.merged(names)
        renderer, size = expert_renderer(merged), megabytes(merged)
    else:
        mixture = bench.mixture(names, router)
        renderer, size = mixture_renderer(mixture), megabytes(mixture)
    speed = _ms(bench, {router: renderer})[router]
    return [_row(router, None, _scores(bench, renderer), ms=speed, fps=1e3 / speed, megabytes=size)]


def whole_rows(bench: Bench, refit: float = 0.0) -> list[Row]:
    """The mixture before pruning, in one pass and expert by expert; with ``refit`` after it learnt on as pruned ones do."""
    whole = bench.refined(bench.plan.names)
    if not refit:
        return [_single_pass_row(bench, "not pruned", 0.0, whole)]
    longer = bench.pruned("opacity", ratio=0.0, rounds=2, scored=1, refit=refit)
    return [_single_pass_row(bench, "not pruned, trained on", 0.0, longer, whole)]


def pruning_rows(bench: Bench, criterion: str, ratio: float, rounds: int, scored: int, refit: float) -> list[Row]:
    """The mixture with a fraction of its Gaussians, experts and router refitted together."""
    pruned = bench.pruned(criterion, ratio=ratio, rounds=rounds, scored=scored, refit=refit)
    return [_single_pass_row(bench, criterion, ratio, pruned, bench.refined(bench.plan.names))]


def _single_pass_row(bench: Bench, series: str, x: float, mixture: Mixture, whole: Mixture | None = None) -> Row:
    """Speeds are taken in turns: this mixture in one pass, expert by expert, the whole mixture, and its experts alone."""
    contest = {"one": mixture_renderer(mixture), "each": separate_renderer(mixture)}
    alone = {f"expert {n}": expert_renderer(e) for n, e in (whole or mixture).experts.items()}
    ms = _ms(bench, contest | alone | ({} if whole is None else {"whole": mixture_renderer(whole)}))
    size = {"gaussians": sum(mixture.router.counts), "megabytes": megabytes(mixture)}
    speed = _speed(ms["one"], max(ms[n] for n in alone)) | {"separate_fps": 1e3 / ms["each"]}
    faster = ms.get("whole", ms["one"]) / ms["one"]
    return _row(series, x, _scores(bench, mixture_renderer(mixture)), **size, **speed, speedup=faster)


def separate_renderer(mixture: Mixture) -> Renderer:
    """A function from camera and time to the blend, with one rasteriser call an expert."""

    def render(camera: Any, t: float) -> torch.Tensor:
        features, counts = mixture.router.features(t), mixture.router.counts
        parts = [None] * len(counts) if features is None else features.split(counts)
        each = [render_experts([e], camera, t, f) for e, f in zip(mixture.experts.values(), parts, strict=True)]
        images, alphas = torch.cat([r.color for r in each]), torch.cat([r.alpha for r in each])
        maps = None if features is None else torch.cat([r.features for r in each if r.features is not None])
        return mixture.router.blend(maps, images, alphas, camera, t)[0]

    return render


def lessons(bench: Bench, student: str, share: float) -> DistillConfig:
    """How a student is taught, and retrained."""
    return DistillConfig(fit=bench.fit_of(student, share)[1])


def student_key(bench: Bench, student: str, share: float) -> str:
    """What a student's folder is called, without training it."""
    taught = [bench.refined_key(bench.plan.names), asdict(lessons(bench, student, share))]
    return f"{student}-{share:g}-taught-{content_key(taught)}"


def student_rows(bench: Bench, student: str, share: float) -> list[Row]:
    """An expert taught by the mixture, and trained on photographs alone for as long."""
    mixture, config = bench.refined(bench.plan.names), lessons(bench, student, share)
    alone = bench.expert(student)
    base, key = bench.models / student_key(bench, student, share), bench.refined_key(bench.plan.names)

    def kept(folder: str, train_it: Callable[..., Expert], **more: Any) -> FrameScores:
        file = base / folder / "expert.safetensors"
        if not file.exists():
            how: dict[str, Any] = {"out": file.parent, "resume": True, "progress": bench.progress, "expert": alone}
            keep_expert(train_it(mixture, bench.scene, student, config, **how, **more), file.parent)
            bench.keep_codes(f"{base.name}/{folder}", bench.expert_key(student), key)
        return _scores(bench, expert_renderer(load_expert(file, bench.device)))

    retrained, taught = kept("retrained", retrain), kept("distilled", distill, cache=bench.models / f"frames-{key}")
    rows = [_row("before", student, _scores(bench, expert_renderer(alone)))]
    rows += [_row("retrained", student, retrained), _row("distilled", student, taught)]
    rows += [_row(MIXTURE, student, _scores(bench, mixture_renderer(mixture)))]
    return [r | {"gain": r["psnr"] - retrained.psnr} for r in rows]


def fused_rows(bench: Bench, scored: int, refit: float) -> list[Row]:
    """The mixture and the one model that it was fused into, before and after that learnt on; gains are over the mixture."""
    mixture = bench.refined(bench.plan.names)
    before, after = bench.fused(scored, refit)
    models: dict[str, Mixture | Expert] = {MIXTURE: mixture, "fused": before, "fused, trained on": after}
    renderers = {n: mixture_renderer(m) if isinstance(m, Mixture) else expert_renderer(m) for n, m in models.items()}
    ms, scores = _ms(bench, renderers), {n: _scores(bench, r) for n, r in renderers.items()}
    size, own = sum(mixture.router.counts), scores[MIXTURE].psnr
    return [
        _row(n, None, scores[n], gain=scores[n].psnr - own, ms=ms[n], fps=1e3 / ms[n], gaussians=size, megabytes=megabytes(m))
        for n, m in models.items()
    ]


def sparse_rows(bench: Bench, min_gate: float) -> list[Row]:
    """The mixture without experts where their gate is small; speeds of it, of all gates and of each expert in turns."""
    mixture = bench.refined(bench.plan.names)
    sparse = sparse_renderer(mixture, min_gate)
    contest = {n: expert_renderer(e) for n, e in mixture.experts.items()}
    ms = _ms(bench, {"exact": mixture_renderer(mixture), "sparse": sparse} | contest)
    exact, scores = _scores(bench, mixture_renderer(mixture)), _scores(bench, sparse)
    error = sparse_error(mixture, bench.scene, min_gate, every=bench.plan.every)
    dearest = max(ms[n] for n in contest)
    return [
        _row("all gates", min_gate, exact, gain=0.0, **_speed(ms["exact"], dearest)),
        _row("sparse gates", min_gate, scores, gain=scores.psnr - exact.psnr, **_speed(ms["sparse"], dearest), **error),
    ]


def fewest_rows(bench: Bench, loss: float) -> list[Row]:
    """What any choice of tiles needs for a loss."""
    mixture = bench.refined(bench.plan.names)
    exact, found = _scores(bench, mixture_renderer(mixture)), fewest_tiles(mixture, bench.scene, loss, every=bench.plan.every)
    return [{"series": "fewest tiles", "x": None, "gain": found["psnr"] - exact.psnr} | found]


def _speed(ms: float, dearest: float) -> dict[str, float]:
    return {"ms": ms, "fps": 1e3 / ms, "times_dearest": ms / dearest}


def _row(series: str, x: Any, scores: FrameScores, **more: Any) -> Row:
    return {"series": series, "x": x, "psnr": scores.psnr, "ssim": scores.ssim_inria, **more}


def _scores(bench: Bench, renderer: Renderer) -> FrameScores:
    return train.evaluate(renderer, bench.scene, every=bench.plan.every, timed=1).mean


@torch.no_grad()
def _ms(bench: Bench, renderers: dict[str, Renderer]) -> dict[str, float]:
    """Median milliseconds a frame on the first held-out camera."""
    return milliseconds(bench.scene, renderers, bench.scene.test[0], bench.plan.timed)
