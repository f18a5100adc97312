"""What is timed: calls without arguments that do one piece of work each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.scenes import BenchScene, random_scene
from moegs.deform._planes import PAIRS
from moegs.deform.polynomial import Polynomial
from moegs.deform.prior import Prior
from moegs.gaussians import Gaussians
from moegs.gaussians.cloud import PointCloud
from moegs.render import Camera, Render, rasterize
from moegs.route import VolumePixelRouter, blend, softmax_gates
from moegs.train.losses import photometric_loss
from moegs.train.optimizer import ParamsAdam

Call = Callable[[], object]


def image_weights(scene: BenchScene) -> Tensor:
    """A fixed gradient with respect to the image, ``[h, w, channels]``."""
    size = (scene.camera.height, scene.camera.width, scene.channels)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def leaves_of(gaussians: Gaussians) -> dict[str, Tensor]:
    """Fresh leaves to differentiate with respect to."""
    names = ("means", "quats", "scales", "opacities", "sh")
    return {name: getattr(gaussians, name).detach().clone().requires_grad_() for name in names}


def render_forward(scene: BenchScene, backend: str) -> Call:
    """The image alone, projection and harmonics included."""

    @torch.no_grad()
    def call() -> None:
        rasterize(scene.gaussians, scene.camera, features=scene.features, backend=backend)

    return call


def render_forward_backward(scene: BenchScene, backend: str, groups: Tensor | None = None) -> Call:
    """The image and the gradients to means, quaternions, scales, opacities, harmonics and features."""
    leaves, weights = leaves_of(scene.gaussians), image_weights(scene).split([3, scene.channels - 3], dim=-1)
    if groups is not None:
        weights = [w.expand(int(groups.max()) + 1, *w.shape) for w in weights]
    upstream = [w.contiguous() for w in weights if w.shape[-1]]  # as a loss hands them on
    features = None if scene.features is None else scene.features.detach().clone().requires_grad_()
    inputs = [*leaves.values(), *([] if features is None else [features])]

    def call() -> None:
        gaussians = Gaussians(**leaves)
        render = rasterize(gaussians, scene.camera, features=features, groups=groups, backend=backend)
        images = [render.color, *([] if features is None else [render.features])]
        torch.autograd.grad(images, inputs, upstream)

    return call


def three_groups(scene: BenchScene, backend: str) -> dict[str, Call]:
    """Three experts' Gaussians in one call and in three, and all of them as one model.

    As a mixture has them: the experts stacked in order, and one loss of all pictures, so that no call's backward can begin
    before the last one's pictures are there. "Mixed up" are the same groups with their Gaussians in turns.
    """
    mixed = torch.arange(len(scene.gaussians)) % 3
    tags, order = mixed.sort(stable=True)
    stacked = replace(scene, gaussians=scene.gaussians[order])
    parts = [leaves_of(scene.gaussians[mixed == k]) for k in range(3)]
    inputs = [leaf for part in parts for leaf in part.values()]
    weights = [image_weights(scene)[..., :3].contiguous() for _ in parts]

    def three_pictures() -> list[Render]:
        return [rasterize(Gaussians(**part), scene.camera, backend=backend) for part in parts]

    return {
        "one call with 3 groups": render_forward_backward(stacked, backend, tags),
        "three calls": lambda: torch.autograd.grad([x.color for x in three_pictures()], inputs, weights),
        "pictures of one call": torch.no_grad()(
            lambda: rasterize(stacked.gaussians, scene.camera, groups=tags, backend=backend)
        ),
        "pictures of three calls": torch.no_grad()(three_pictures),
        "mixed up": render_forward_backward(scene, backend, mixed),
        "one model": render_forward_backward(scene, backend),
    }


def training_step(
    n: int, width: int, height: int, backend: str = "auto", prior: Prior | None = None
) -> dict[str, Call]:
    """One step of an expert and its parts: deform, render, L1 + SSIM, backward, Adam. And the rasteriser alone."""
    scene = random_scene(n, width, height)
    prior = Polynomial() if prior is None else prior
    optimizer = ParamsAdam(_start(prior, scene), prior.param_groups(_start(prior, scene), 1.0))
    target = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(3))

    def step() -> None:
        image = rasterize(prior.deform(optimizer.params, 0.5), scene.camera, backend=backend).color
        photometric_loss(image, target).backward()
        optimizer.step(0.0, 0)

    with torch.no_grad():
        still = prior.deform(optimizer.params, 0.5)
    return {"step": step, "rasteriser": render_forward_backward(replace(scene, gaussians=still), backend)}


def _start(prior: Prior, scene: BenchScene) -> dict[str, Tensor]:
    """The prior's parameters on the scene's Gaussians, with their sizes and opacities."""
    g = scene.gaussians
    cloud = PointCloud(g.means, (g.sh[:, 0] * 0.28209479177387814 + 0.5).clamp(0, 1), None)
    params = prior.init(cloud, torch.Generator().manual_seed(0))
    same = {
        "gaussian.scales": g.scales.log(),
        "gaussian.opacities": torch.logit(g.opacities),
        "gaussian.quats": g.quats,
    }
    return params | {name: value.reshape(params[name].shape) for name, value in same.items() if name in params}


def loss_and_gradient(width: int, height: int, reference: bool) -> Call:
    """L1 + SSIM with its gradient, by the kernel of the backend or by torch."""
    from moegs.metrics import ssim_inria

    generator = torch.Generator().manual_seed(0)
    image = torch.rand(height, width, 3, generator=generator).requires_grad_()
    target = torch.rand(height, width, 3, generator=generator)

    def twin(image: Tensor, target: Tensor) -> Tensor:
        return 0.8 * (image - target).abs().mean() + 0.2 * (1 - ssim_inria(image, target))

    loss = twin if reference else photometric_loss
    return lambda: torch.autograd.grad(loss(image, target), image)


def router_network(width: int, height: int, logits: Callable[..., Tensor], k: int = 3) -> Call:
    """The paper's network at every pixel for k experts, with the gradients of its inputs and weights."""
    generator = torch.Generator().manual_seed(0)
    layers = VolumePixelRouter([1] * k, generator=generator).layers
    maps = torch.randn(k, height, width, 3, generator=generator).requires_grad_()
    rays = [torch.randn(1, 1, 1, 3, generator=generator), torch.randn(1, height, width, 3, generator=generator)]
    upstream = torch.randn(k, height, width, generator=generator)
    return lambda: torch.autograd.grad(
        logits(maps, rays, [*layers], k, (height, width)), [maps, *layers], upstream
    )


def gated_blend(width: int, height: int, blend: Callable[..., tuple[Tensor, Tensor]], k: int = 3) -> Call:
    """Gates and blend of k experts at every pixel, with the gradients of images and logits."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(k, height, width, 3, generator=generator).requires_grad_()
    logits = torch.randn(k, height, width, generator=generator).requires_grad_()
    upstream = torch.randn(height, width, 3, generator=generator)
    return lambda: torch.autograd.grad(blend(images, logits, 1.0)[0], [images, logits], upstream)


def blend_by_torch(images: Tensor, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Plain twin of :func:`moegs.route.gated_blend`."""
    gates = softmax_gates(logits, temperature)
    return blend(images, gates), gates


def rays(width: int, height: int, directions: Callable[[Camera], Tensor]) -> Call:
    """Directions through all pixels of a camera, which nobody differentiates."""
    k = torch.tensor([[float(width), 0.0, width / 2], [0.0, float(width), height / 2], [0.0, 0.0, 1.0]])
    camera = Camera(torch.eye(4), k, width, height)
    return lambda: (directions(camera),)


def hexplane(n: int, sampler: Callable[..., Tensor], one_time: bool = True) -> Call:
    """Two levels of six planes with 16 channels, sampled and differentiated at ``n`` points."""
    generator = torch.Generator().manual_seed(0)
    levels = [_level((64 * m, 64 * m, 64 * m, 150), generator) for m in (1, 2)]
    coords = 2 * torch.rand(n, 4, generator=generator) - 1
    if one_time:
        coords[:, 3] = 0.3
    coords.requires_grad_()
    leaves, upstream = [coords, *levels[0], *levels[1]], torch.randn(n, 32, generator=generator)
    return lambda: torch.autograd.grad(sampler(levels, coords), leaves, upstream)


def _level(cells: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    shapes = [(1, 16, cells[b], cells[a]) for a, b in PAIRS]
    planes = [0.1 + 0.4 * torch.rand(shape, generator=generator) for shape in shapes]
    return [plane.contiguous(memory_format=torch.channels_last).requires_grad_() for plane in planes]


def splines(n: int, pose: Callable[..., tuple[Tensor, Tensor]]) -> Call:
    """Poses between two of thirteen key frames, with the gradients of all of them."""
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(n, 13, width, generator=generator).requires_grad_() for width in (3, 4)]
    upstream = [torch.randn(n, width, generator=generator) for width in (3, 4)]
    return lambda: torch.autograd.grad(pose(*leaves, 4.3), leaves, upstream)


def adam(n: int, fused: bool) -> Call:
    """One Adam step over 59 floats a Gaussian."""
    leaf = torch.zeros(n, 59, requires_grad=True)
    leaf.grad = torch.ones(n, 59)
    optimizer = torch.optim.Adam([leaf], lr=1e-3, fused=fused, foreach=False)
    return optimizer.step
