"""gsplat's torch functions on the CPU, as far as they go without its compiled part.

Projection, spherical harmonics and compositing are gsplat's. The list of contributing pairs, which gsplat only makes on
CUDA, is handed in ready-made and not timed, and the two functions of nerfacc that it composites with are restated here
in torch: what is timed is less than all of gsplat's work.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.pairs import contributing, projected
from benchmarks.scenes import BenchScene

MOST_PAIRS = 6_000_000  # about 200 bytes of autograd state a pair


def available() -> bool:
    """Whether gsplat is installed."""
    return importlib.util.find_spec("gsplat") is not None


def forward_backward(scene: BenchScene, weights: Tensor) -> Callable[[], None] | None:
    """A call that renders the scene and differentiates, or None where it would not fit."""
    projection = projected(scene)
    local, pixel = contributing(projection, scene.camera.width, scene.camera.height)
    if len(local) > MOST_PAIRS:
        return None
    pairs = (projection.index[local], pixel)
    fields = {name: getattr(scene.gaussians, name) for name in ("means", "quats", "scales", "opacities", "sh")}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in fields.items()}
    features = None if scene.features is None else scene.features.detach().clone().requires_grad_()

    def call() -> None:
        image = _render(scene, leaves, features, pairs)
        torch.autograd.grad(image, [*leaves.values(), *([] if features is None else [features])], weights)

    return call


def _render(
    scene: BenchScene, leaves: dict[str, Tensor], features: Tensor | None, pairs: tuple[Tensor, Tensor]
) -> Tensor:
    _provide_nerfacc()
    from gsplat.cuda import _torch_impl as gsplat

    camera, (gaussian, pixel) = scene.camera, pairs
    covars, _ = gsplat._quat_scale_to_covar_preci(leaves["quats"], leaves["scales"], compute_preci=False)
    _, means2d, _, conics, _ = gsplat._fully_fused_projection(
        means=leaves["means"], covars=covars, viewmats=camera.viewmat[None], Ks=camera.K[None],
        width=camera.width, height=camera.height, eps2d=0.3, near_plane=camera.near, far_plane=camera.far,
    )  # fmt: skip
    colors = (gsplat._spherical_harmonics(3, leaves["means"] - camera.centre, leaves["sh"]) + 0.5).clamp_min(0.0)
    values = colors if features is None else torch.cat([colors, features], dim=1)
    image, _ = gsplat.accumulate(
        means2d=means2d, conics=conics, opacities=leaves["opacities"][None], colors=values[None], gaussian_ids=gaussian,
        pixel_ids=pixel, image_ids=torch.zeros_like(pixel), image_width=camera.width, image_height=camera.height,
    )  # fmt: skip
    return image[0]


def _provide_nerfacc() -> None:
    """Let gsplat find the two functions it wants, unless the real package is there."""
    if "nerfacc" in sys.modules or importlib.util.find_spec("nerfacc") is not None:
        return
    module = ModuleType("nerfacc")
    module.render_weight_from_alpha = _render_weight_from_alpha
    module.accumulate_along_rays = _accumulate_along_rays
    sys.modules["nerfacc"] = module


def _render_weight_from_alpha(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """Front-to-back weights of samples sorted by ray: an exclusive product within each ray, in logarithms."""
    logs = torch.log1p(-alphas).double()
    total = torch.cumsum(logs, dim=0) - logs
    first = torch.searchsorted(ray_indices, torch.arange(n_rays))
    start = total[first.clamp_max(len(total) - 1)]
    transmittance = torch.exp(total - start[ray_indices]).to(alphas.dtype)
    return alphas * transmittance, transmittance


def _accumulate_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    samples = weights[:, None] if values is None else weights[:, None] * values
    return torch.zeros(n_rays, samples.shape[1]).index_add(0, ray_indices, samples)
