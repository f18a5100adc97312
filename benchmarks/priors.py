"""What each motion prior costs: floats to keep, and milliseconds to move 10,000 Gaussians on one thread.

python -m benchmarks.priors [--gaussians 10000] [--rounds 15]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.report import Section, machine
from benchmarks.timing import interleaved, threads
from benchmarks.workloads import Call
from moegs import deform
from moegs.deform import Embedding, HexPlane, Interpolation, Polynomial, Prior, Reformulation
from moegs.gaussians import Gaussians, PointCloud
from moegs.gaussians.params import PREFIX, Params

NAMES = ("polynomial", "interpolation", "hexplane", "embedding", "reformulation")
FRAMES = 48
COLUMNS = ("prior", "floats a Gaussian", "shared floats", "forward", "forward + gradients")


def recipes() -> dict[str, Prior]:
    """Each prior as ``for_clip`` makes it for a clip of 48 frames, then as published for N3V (key frames: half of them)."""
    clips = {f"{name}, clip": deform.get(name).for_clip(FRAMES) for name in NAMES}
    half = replace(Interpolation.n3v(), dynamic=0.5)  # it begins without any spline and extracts them as it trains
    n3v = (Polynomial.n3v(), half, HexPlane.n3v(), Embedding.n3v(), Reformulation.n3v())
    return clips | {f"{prior.name}, N3V": prior for prior in n3v}


def started(prior: Prior, n: int) -> Params:
    """A prior's tensors on a random cloud, those that are trained a little shaken so that everything takes part."""
    generator = torch.Generator().manual_seed(0)
    cloud = PointCloud(torch.randn(n, 3, generator=generator), torch.rand(n, 3, generator=generator))
    params = prior.init(cloud, generator)
    trained = prior.param_groups(params, 1.0)
    return {k: v + 0.01 * torch.randn(v.shape, generator=generator) if k in trained else v for k, v in params.items()}


def floats(params: Params, n: int) -> tuple[str, int]:
    """Numbers kept for each Gaussian (both, where there are two populations), and for all of them together."""
    own: dict[str, int] = {}
    for name, value in params.items():
        if name.startswith(PREFIX) and len(value):
            population = name[len(PREFIX) :].rpartition(".")[0]
            own[population] = own.get(population, 0) + value[0].numel()
    shared = sum(v.numel() for k, v in params.items() if not k.startswith(PREFIX))
    return " or ".join(f"{count} ({name})" if len(own) > 1 else str(count) for name, count in own.items()), shared


def forward(prior: Prior, params: Params) -> Call:
    """The Gaussians at one time."""

    @torch.no_grad()
    def call() -> None:
        prior.deform(params, 0.37)

    return call


def forward_backward(prior: Prior, params: Params) -> Call:
    """The Gaussians at one time, the prior's own losses, and the gradient of everything that is trained."""
    trained = {k: params[k].clone().requires_grad_() for k in prior.param_groups(params, 1.0) if params[k].numel()}
    moving = params | trained

    def call() -> None:
        now = prior.deform(moving, 0.37)
        loss = torch.stack([v.sum() for v in _tensors(now)]).sum() + prior.regularise(moving, 0.37)
        torch.autograd.grad(loss, list(trained.values()), allow_unused=True)

    return call


def _tensors(now: Gaussians) -> list[Tensor]:
    fields = (now.means, now.opacities, now.sh, now.quats, now.scales, now.covars, now.features)
    return [field for field in fields if field is not None]


def rows(n: int, rounds: int) -> list[tuple[str, ...]]:
    """The table's rows."""
    priors = recipes()
    params = {name: started(prior, n) for name, prior in priors.items()}
    with threads(1):
        forwards = interleaved({k: forward(p, params[k]) for k, p in priors.items()}, rounds)
        both = interleaved({k: forward_backward(p, params[k]) for k, p in priors.items()}, rounds)
    table = []
    for name in priors:
        own, shared = floats(params[name], n)
        times = (f"{timing[name].median:.1f} ({timing[name].best:.1f})" for timing in (forwards, both))
        table.append((name, own, f"{shared:,}", *times))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    text = f"{args.gaussians:,} Gaussians, one thread: median (best) of {args.rounds} rounds in ms. {machine(0.0)}"
    print(Section("Cost of the priors", text, COLUMNS, rows(args.gaussians, args.rounds)).markdown())


if __name__ == "__main__":
    main()
