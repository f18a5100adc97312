"""Side-by-side figures: ``python -m benchmarks.compare [--quick] [--only NAME …] [--out DOCS | --no-write]``.

Native against the torch reference and gsplat's torch functions, in one run and interleaved. Prints every section as it
is done, and writes ``docs/performance.md`` with its plots at the end.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import gsplat_torch, workloads
from benchmarks.pairs import contributing, limit_ms, projected
from benchmarks.report import DOCS, Section, log_log, machine, write_page
from benchmarks.scenes import BenchScene, garden_scene, grown, random_scene, table_scenes
from benchmarks.timing import Timing, busy_neighbours, interleaved, threads
from moegs.deform._planes import sample_planes, sample_planes_reference
from moegs.deform._splines import pose, pose_by_torch
from moegs.render import native
from moegs.render.camera import view_directions, view_directions_by_torch
from moegs.route import gated_blend
from moegs.route._network import network_logits, network_logits_by_torch


@dataclass(frozen=True)
class Effort:
    """How much is measured; ``quick`` is for a look, the rest for the page."""

    quick: bool
    backend: str
    ghz: float

    @property
    def rounds(self) -> int:
        return 5 if self.quick else 25

    @property
    def seconds(self) -> float:
        """What one candidate may use up before it sits out."""
        return 3.0 if self.quick else 30.0


def against_reference(effort: Effort) -> Section:
    """Native, reference and gsplat on the scenes of the table, one thread."""
    scenes = [s for s in table_scenes() if not (effort.quick and s.camera.width > 400)]
    return Section(
        "Against the reference and gsplat",
        "One thread. A contributing pair is a Gaussian and a pixel with alpha ≥ 1/255 before the pixel is opaque. The "
        "limit is the pairs' arithmetic alone: 34 floating-point operations forward and 63 backward a pair at three "
        "channels (2 and 4 for each channel more) at one 16-lane multiply-add a cycle. gsplat's figure is that of its "
        "torch functions for projection, harmonics and compositing over a ready-made list of pairs; making the list, "
        "which gsplat does on CUDA only, is not in it. A dash means that it is not installed or would not fit.",
        ("scene", "pairs", effort.backend, "best", "ns a pair", "limit", "times limit", "forward alone", "reference",
         "reference / ours", "gsplat torch", "gsplat / ours"),
        [_scene_row(scene, effort) for scene in scenes],
    )  # fmt: skip


def _scene_row(scene: BenchScene, effort: Effort) -> tuple[str, ...]:
    pairs = len(contributing(projected(scene), scene.camera.width, scene.camera.height)[0])
    calls = {
        "ours": workloads.render_forward_backward(scene, effort.backend),
        "forward": workloads.render_forward(scene, effort.backend),
        "reference": workloads.render_forward_backward(scene, "reference"),
    }
    if gsplat_torch.available():
        other = gsplat_torch.forward_backward(scene, workloads.image_weights(scene))
        calls |= {} if other is None else {"gsplat": other}
    with threads(1):
        t = interleaved(calls, effort.rounds, effort.seconds)
    ours, limit = t["ours"], limit_ms(pairs, scene.channels, effort.ghz) if effort.ghz else float("nan")
    return (
        scene.name, f"{pairs / 1e6:.2f} M", ms(ours), f"{ours.best:.1f}", f"{ours.median / pairs * 1e6:.2f}",
        f"{limit:.1f}", f"{ours.median / limit:.1f}", ms(t["forward"]), *_beside(t["reference"], ours),
        *_beside(t.get("gsplat"), ours),
    )  # fmt: skip


def _beside(other: Timing | None, ours: Timing) -> tuple[str, str]:
    return ("–", "–") if other is None else (ms(other), f"{other.median / ours.median:.0f}")


def ms(timing: Timing) -> str:
    """The median, with a digit after the point below 100."""
    return f"{timing.median:.1f}" if timing.median < 100 else f"{timing.median:,.0f}"


def _largest(effort: Effort) -> BenchScene:
    garden = None if effort.quick else garden_scene(112_000, 676, 507)
    return random_scene(10_000, 320, 240) if garden is None else garden


def thread_scaling(effort: Effort) -> Section:
    """One and two threads, alone and beside a process that computes."""
    scenes = [random_scene(10_000, 320, 240)] + ([] if effort.quick else [_largest(effort)])
    rows = []
    for busy in (False, True):
        for scene in scenes:
            with busy_neighbours(1) if busy else nullcontext():
                rows.append(_thread_row(scene, busy, effort))
    return Section(
        "Threads",
        "The same work on one and on two threads, on an otherwise idle machine and beside a process that never rests.",
        ("scene", "machine", "1 thread", "2 threads", "best, 1 thread", "best, 2 threads", "gain"),
        rows,
    )


def _thread_row(scene: BenchScene, busy: bool, effort: Effort) -> tuple[str, ...]:
    call = workloads.render_forward_backward(scene, effort.backend)

    def on(n: int) -> Callable[[], None]:
        def run() -> None:
            with threads(n):
                call()

        return run

    t = interleaved({"one": on(1), "two": on(2)}, 2 * effort.rounds, effort.seconds)
    one, two = t["one"], t["two"]
    where = "one process busy" if busy else "free"
    gain = f"{one.median / two.median:.2f}"
    return (scene.name, where, ms(one), ms(two), f"{one.best:.1f}", f"{two.best:.1f}", gain)


def groups(effort: Effort) -> Section:
    """Three experts in one call and in three."""
    scenes = [s for s in table_scenes() if s.features is None and not (effort.quick and s.camera.width > 400)]
    rows = []
    for scene in scenes:
        with threads(1):
            t = interleaved(workloads.three_groups(scene, effort.backend), effort.rounds, effort.seconds)
        one, three = t["one call with 3 groups"], t["three calls"]
        pictures = t["pictures of three calls"].median / t["pictures of one call"].median
        ratios = [f"{x:.2f}" for x in (three.median / one.median, pictures, t["mixed up"].median / one.median)]
        rows.append((scene.name, ms(one), ms(three), *ratios, ms(t["one model"])))
    return Section(
        "Three experts in one pass",
        "The Gaussians of the scene dealt out to three groups, each composited as if it were alone; pictures and "
        "gradients of one loss over all of them, which needs every picture before the first gradient. One call has the "
        "groups stacked in order, as a mixture does; mixed up: in turns. Pictures alone: three / one without gradients. "
        "One thread.",
        ("scene", "one call, 3 groups", "three calls", "three / one", "pictures alone", "mixed up / one", "all as one model"),
        rows,
    )


def training_step(effort: Effort) -> Section:
    """A whole step of a polynomial expert beside the rasteriser's share."""
    sizes = [(10_000, 320, 240)] + ([] if effort.quick else [(50_000, 320, 240), (50_000, 676, 507)])
    rows = []
    for size in sizes:
        with threads(1):
            t = interleaved(workloads.training_step(*size, effort.backend), effort.rounds, effort.seconds)
        step, raster = t["step"], t["rasteriser"]
        name = f"{size[0] // 1000}k, {size[1]}x{size[2]}"
        rows.append((name, ms(step), ms(raster), f"{step.median / raster.median:.2f}"))
    return Section(
        "A whole training step",
        "Polynomial prior: deform, render, L1 + SSIM, backward, check of the gradients, fused Adam; and the "
        "rasteriser's own forward + backward on the same Gaussians. One thread.",
        ("Gaussians, image", "step", "rasteriser", "step / rasteriser"),
        rows,
    )


def other_ops(effort: Effort) -> Section:
    """SSIM, the router's network and gates, plane sampling, key frames and Adam."""
    width, height = 320, 240
    ops = {
        "L1 + SSIM, 320x240": {
            "ours": workloads.loss_and_gradient(width, height, reference=False),
            "torch": workloads.loss_and_gradient(width, height, reference=True),
        },
        "router's network, three experts, 320x240": {
            "ours": workloads.router_network(width, height, network_logits),
            "torch": workloads.router_network(width, height, network_logits_by_torch),
        },
        "gates and blend, three experts, 320x240": {
            "ours": workloads.gated_blend(width, height, gated_blend),
            "torch": workloads.gated_blend(width, height, workloads.blend_by_torch),
        },
    }
    ops["rays, 640x480 (forward only)"] = {
        "ours": workloads.rays(640, 480, view_directions),
        "torch": workloads.rays(640, 480, view_directions_by_torch),
    }
    for n in (10_000, 50_000):
        for one_time in (True, False):
            ops[f"HexPlane, {n // 1000}k points, {'one time' if one_time else 'a time each'}"] = {
                "ours": workloads.hexplane(n, sample_planes, one_time),
                "torch": workloads.hexplane(n, sample_planes_reference, one_time),
            }
        ops[f"key frames, {n // 1000}k Gaussians"] = {
            "ours": workloads.splines(n, pose),
            "torch": workloads.splines(n, pose_by_torch),
        }
        ops[f"Adam, {n // 1000}k Gaussians"] = {"ours": workloads.adam(n, True), "torch": workloads.adam(n, False)}
    rows = []
    for name, calls in ops.items():
        with threads(1):
            t = interleaved(calls, effort.rounds, effort.seconds)
        ours, torch = t["ours"], t["torch"]
        rows.append((name, ms(ours), f"{ours.best:.2f}", ms(torch), f"{torch.median / ours.median:.1f}"))
    return Section(
        "The rest of a step",
        "Forward + backward, one thread. HexPlane: two levels of six planes, 16 channels, 64³ and 128³ cells with 150 "
        'times, planes in channels-last order. "Ours" for Adam is torch\'s fused one. Key frames: poses '
        "between two of thirteen.",
        ("op", "ours", "best", "torch", "torch / ours"),
        rows,
    )


def growth_gaussians(effort: Effort) -> Section:
    """Cost against the number of Gaussians, the covered area staying the same."""
    counts = [1_000, 10_000, 100_000] + ([] if effort.quick else [300_000, 1_000_000, 2_000_000])
    base = garden_scene(50_000, 320, 240) or random_scene(10_000, 320, 240)
    scenes = [grown(base, n) for n in counts]
    return _growth(
        "Cost against Gaussians",
        f"Jittered copies of {base.name}, shrunk so that they cover the same area together. One thread. Gradients of 1M and "
        "more are hundreds of megabytes, which the C library may fetch from the system page by page at every call: up to a "
        "third of the time where it does.",
        ("Gaussians", scenes, [float(n) for n in counts]), "performance_gaussians.png", effort,
    )  # fmt: skip


def growth_pixels(effort: Effort) -> Section:
    """Cost against the number of pixels, the Gaussians staying the same."""
    sizes = [(84, 63), (169, 127), (338, 253), (676, 507)] + ([] if effort.quick else [(1014, 760), (1352, 1014)])
    base = garden_scene(50_000, 676, 507) or random_scene(50_000, 676, 507)
    scenes = [replace(base, name=f"{w}x{h}", camera=base.camera.resized(w, h)) for w, h in sizes]
    return _growth(
        "Cost against pixels",
        f"The Gaussians of {base.name} at growing resolution. One thread.",
        ("pixels", scenes, [float(w * h) for w, h in sizes]), "performance_pixels.png", effort,
    )  # fmt: skip


def _growth(
    title: str, text: str, axis: tuple[str, list[BenchScene], list[float]], plot: str, effort: Effort
) -> Section:
    label, scenes, sizes = axis
    both, forward, rows = [], [], []
    for scene, size in zip(scenes, sizes, strict=True):
        calls = {"both": workloads.render_forward_backward(scene, effort.backend)}
        calls["forward"] = workloads.render_forward(scene, effort.backend)
        with threads(1):
            t = interleaved(calls, max(effort.rounds // 2, 3), effort.seconds)
        both.append(t["both"].median)
        forward.append(t["forward"].median)
        rows.append((scene.name, ms(t["both"]), ms(t["forward"]), f"{t['both'].median / size * 1e6:,.0f}"))
    series = {"forward + backward": both, "forward": forward}
    drawing = log_log(sizes, series, (label, "milliseconds, one thread"))
    columns = (label, "forward + backward", "forward", f"ns per {label.rstrip('s')}")
    return Section(title, text, columns, rows, {plot: drawing})


SECTIONS: dict[str, Callable[[Effort], Section]] = {
    "scenes": against_reference,
    "threads": thread_scaling,
    "groups": groups,
    "step": training_step,
    "ops": other_ops,
    "gaussians": growth_gaussians,
    "pixels": growth_pixels,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the page."""
    options = _parser().parse_args(arguments)
    ghz = native.library().clock_ghz() if native.available() else 0.0
    backend = options.backend or ("native" if native.available() else "reference")
    effort = Effort(options.quick, backend, ghz)
    print(machine(ghz), flush=True)
    sections = []
    for name in options.only or SECTIONS:
        sections.append(SECTIONS[name](effort))
        print("\n" + sections[-1].markdown(), flush=True)
    if not options.no_write:
        given = sys.argv[1:] if arguments is None else arguments
        print(write_page(sections, shlex.join(["python", "-m", "benchmarks.compare", *given]), ghz, options.out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small scenes, few rounds: a look in about a minute")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="measure these sections only")
    parser.add_argument("--backend", choices=["native", "reference"], help="what to hold against the rest")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for performance.md and assets/")
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
