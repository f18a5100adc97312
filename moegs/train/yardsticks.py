"""What to hold a mixture against: the average of its experts, the best of them at every pixel or in every tile, all gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.data import Scene
from moegs.errors import ConfigError
from moegs.metrics import FrameScores, score, summarise
from moegs.progress import progress_bar
from moegs.render.types import TILE
from moegs.route.blend import blend, oracle_gates, uniform_gates
from moegs.route.mixture import Mixture
from moegs.route.render import MixtureRender, render_experts, render_mixture
from moegs.route.sparse import render_sparse

MOST = 8  # experts whose subsets are tried


@torch.no_grad()
def yardsticks(
    mixture: Mixture,
    scene: Scene,
    cameras: Sequence[int] | None = None,
    *,
    every: int = 1,
    backend: str = "auto",
    progress: bool = False,
) -> dict[str, FrameScores]:
    """Mean scores of the ``"uniform average"`` and the ``"per-pixel oracle"`` on the held-out cameras.

    The average shows what an ensemble gains by itself. The oracle looks at the photograph and picks the nearer expert
    at every pixel: what a router that selects could reach at most.
    """
    scores: dict[str, list[FrameScores]] = {"uniform average": [], "per-pixel oracle": []}
    experts = list(mixture.experts.values())
    for camera, frame in _views("average and oracle", scene, cameras, every, progress):
        images = render_experts(experts, scene.cameras[camera], scene.time(frame), backend=backend).color
        truth = scene.image(camera, frame)
        images = images.to(truth.device)
        scores["uniform average"].append(score(blend(images, uniform_gates(images)), truth))
        scores["per-pixel oracle"].append(score(blend(images, oracle_gates(images, truth)), truth))
    return {name: summarise(values) for name, values in scores.items()}


@torch.no_grad()
def sparse_error(
    mixture: Mixture,
    scene: Scene,
    min_gate: float,
    cameras: Sequence[int] | None = None,
    *,
    every: int = 1,
    backend: str = "auto",
    progress: bool = False,
) -> dict[str, float]:
    """What sparse gates leave out, over the held-out cameras.

    Returns:
        ``tiles``, the mean share of (expert, tile) pairs that are drawn, and ``largest_error``, the largest difference
        of any channel of any pixel from the exact blend.
    """
    shares, errors = [], []
    for camera, frame in _views("sparse gates", scene, cameras, every, progress):
        place, t = scene.cameras[camera], scene.time(frame)
        sparse = render_sparse(mixture, place, t, min_gate, backend=backend)
        exact = render_mixture(mixture, place, t, backend=backend)
        shares.append(sparse.share)
        errors.append(float((sparse.color - exact.color).abs().max()))
    return {"tiles": sum(shares) / len(shares), "largest_error": max(errors)}


@torch.no_grad()
def fewest_tiles(
    mixture: Mixture,
    scene: Scene,
    loss: float = 0.05,
    cameras: Sequence[int] | None = None,
    *,
    every: int = 1,
    backend: str = "auto",
    progress: bool = False,
) -> dict[str, float]:
    """How many (expert, tile) pairs it takes at least to lose so little, over the held-out cameras.

    A bound for sparse gates: in every tile all subsets of the experts are tried against the photograph, with the gates of
    the others shared out among them, and no small picture has to tell.

    Args:
        mixture: experts and router, at most eight.
        scene: the clip.
        loss: of mean PSNR, in dB.
        cameras: instead of the held-out ones.
        every: look at each ``every``-th frame.
        backend: rasteriser.
        progress: show a bar.

    Returns:
        ``tiles``, the share of all pairs, and ``psnr`` with them.

    Raises:
        ConfigError: there are more experts, or no cameras.
    """
    k = len(mixture.experts)
    if k > MOST:
        raise ConfigError(f"fewest tiles: expected at most {MOST} experts, whose subsets are all tried, got {k}.")
    subsets = [c for size in range(1, k + 1) for c in combinations(range(k), size)]
    frames = []
    for camera, frame in _views("fewest tiles", scene, cameras, every, progress):
        render = render_mixture(mixture, scene.cameras[camera], scene.time(frame), backend=backend)
        truth = scene.image(camera, frame).to(render.images.device)
        errors = torch.stack([_tile_errors(_shared_out(render, chosen), truth) for chosen in subsets])
        frames.append(errors.double().cpu())
    sizes = torch.tensor([float(len(chosen)) for chosen in subsets])
    return _least_for(frames, sizes.double() / k, loss)


def _shared_out(render: MixtureRender, chosen: tuple[int, ...]) -> Float[Tensor, "h w 3"]:
    gates = render.gates[list(chosen)]
    return blend(render.images[list(chosen)], gates / gates.sum(0).clamp_min(1e-12))


def _tile_errors(image: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> Float[Tensor, "tiles"]:
    """Each tile's part of the mean squared error."""
    h, w, _ = image.shape
    error = torch.nn.functional.pad((image.clamp(0, 1) - truth).square().mean(-1), (0, -w % TILE, 0, -h % TILE))
    return error.unflatten(1, (-1, TILE)).unflatten(0, (-1, TILE)).sum((1, 3)).flatten() / (h * w)


def _least_for(
    frames: list[Float[Tensor, "subsets tiles"]], shares: Float[Tensor, "subsets"], loss: float
) -> dict[str, float]:
    """The dearest price of a share at which the loss is kept; the last subset is that of all experts."""
    whole = torch.stack([errors[-1].sum() for errors in frames])
    wanted = float(-10 * whole.log10().mean()) - loss

    def at(price: float) -> dict[str, float]:
        # a frame's PSNR falls with the logarithm of its error: to first order, with the error over the whole's
        chosen = [(e / w + price * shares[:, None]).argmin(0) for e, w in zip(frames, whole, strict=True)]
        left = torch.stack([e.gather(0, c[None]).sum() for e, c in zip(frames, chosen, strict=True)])
        return {"tiles": float(shares[torch.cat(chosen)].mean()), "psnr": float(-10 * left.log10().mean())}

    low, high = -30.0, 10.0  # powers of two
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at(2**middle)["psnr"] >= wanted else (low, middle)
    return at(2**low)


def _views(
    title: str, scene: Scene, cameras: Sequence[int] | None, every: int, progress: bool
) -> Iterator[tuple[int, int]]:
    """Cameras and frames to look at, with a bar on stderr when that takes more than two seconds."""
    chosen = tuple(scene.test if cameras is None else cameras)
    if every < 1:
        raise ConfigError(f"{title}: expected every of at least 1, got {every}.")
    views = [(camera, frame) for camera in chosen for frame in range(0, scene.n_frames, every)]
    if not views:
        raise ConfigError(f"{title}: expected at least one camera, got none; hold some out (--test).")
    with progress_bar(title, len(views), progress) as advance:
        for view in views:
            yield view
            advance()
