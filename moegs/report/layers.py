"""The pictures that one view of a model gives: blend, experts, gates, depth."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError
from moegs.expert import Expert, render_expert
from moegs.render.api import expected_depth
from moegs.render.camera import Camera
from moegs.report.pictures import Picture, depth_colors, heat, to_uint8
from moegs.route.mixture import Mixture
from moegs.route.render import MixtureRender, render_mixture
from moegs.route.sparse import render_sparse

MIXTURE, EXPERTS, GATES, DEPTH = KINDS = ("mixture", "experts", "gates", "depth")


@torch.no_grad()
def layers(
    model: Expert | Mixture,
    camera: Camera,
    t: float,
    what: Collection[str],
    *,
    bounds: tuple[float, float] | None = None,
    min_gate: float | None = None,
    backend: str = "auto",
) -> dict[str, Picture]:
    """Render one view and colour what was asked for.

    Args:
        model: an expert or a mixture.
        camera: where from.
        t: clip-normalised time.
        what: some of :data:`KINDS`: ``mixture`` is the blend, ``experts`` one image an expert, ``gates`` one heat-map
            an expert, ``depth`` the blend's and every expert's. One expert alone has ``experts`` and ``depth``.
        bounds: nearest and farthest depth of the colour scale; each picture's own by default.
        min_gate: leave an expert of a mixture out where its gate is smaller, see :func:`moegs.route.render_sparse`.
        backend: as for :func:`moegs.render.rasterize`.

    Returns:
        Pictures by name: ``mixture``, the experts' names, ``gates-NAME``, ``depth``, ``depth-NAME``.

    Raises:
        ConfigError: a kind is unknown, or a single expert does not have it; or ``min_gate`` has no meaning.
    """
    known = KINDS if isinstance(model, Mixture) else (EXPERTS, DEPTH)
    if wrong := sorted(set(what) - set(known)):
        raise ConfigError(f"what: expected some of {', '.join(known)} for this model, got {wrong[0]!r}.")
    if isinstance(model, Mixture):
        return _of_mixture(list(model.experts), _blended(model, camera, t, min_gate, backend), what, bounds)
    if min_gate is not None:
        raise ConfigError("min_gate: one expert alone has no gates; give a mixture.")
    render = render_expert(model, camera, t, backend=backend)
    pictures = {model.prior.name: to_uint8(render.color)} if EXPERTS in what else {}
    return pictures | ({"depth": _colored(expected_depth(render), bounds)} if DEPTH in what else {})


def _blended(mixture: Mixture, camera: Camera, t: float, min_gate: float | None, backend: str) -> MixtureRender:
    if min_gate is None:
        return render_mixture(mixture, camera, t, backend=backend)
    return render_sparse(mixture, camera, t, min_gate, backend=backend)


def _of_mixture(
    names: list[str], render: MixtureRender, what: Collection[str], bounds: tuple[float, float] | None
) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    if MIXTURE in what:
        pictures["mixture"] = to_uint8(render.color)
    if EXPERTS in what:
        pictures |= {name: to_uint8(image) for name, image in zip(names, render.images, strict=True)}
    if GATES in what:
        pictures |= {f"gates-{name}": to_uint8(heat(gate)) for name, gate in zip(names, render.gates, strict=True)}
    if DEPTH in what:
        blended = _divided((render.gates * render.depths).sum(0), (render.gates * render.alphas).sum(0))
        each = {f"depth-{n}": _divided(d, a) for n, d, a in zip(names, render.depths, render.alphas, strict=True)}
        pictures |= {name: _colored(depth, bounds) for name, depth in ({"depth": blended} | each).items()}
    return pictures


def _divided(depth: Float[Tensor, "h w"], alpha: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return torch.where(alpha > 1e-6, depth / alpha.clamp_min(1e-6), 0.0)


def _colored(depth: Float[Tensor, "h w"], bounds: tuple[float, float] | None) -> Picture:
    near, far = bounds or (None, None)
    return to_uint8(depth_colors(depth, near, far))
