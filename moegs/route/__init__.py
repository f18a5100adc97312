"""From the Gaussians of several experts to per-pixel gates and one image."""

from moegs.route.blend import blend, oracle_gates, softmax_gates, uniform_gates
from moegs.route.mixture import (
    Mixture,
    MixtureRender,
    load_mixture,
    read_manifest,
    render_experts,
    render_mixture,
    save_mixture,
)
from moegs.route.routers import PixelRouter, RouterConfig, VolumePixelRouter
from moegs.route.sparse import SparseRender, active_tiles, render_sparse

__all__ = [
    "Mixture",
    "MixtureRender",
    "PixelRouter",
    "RouterConfig",
    "SparseRender",
    "VolumePixelRouter",
    "active_tiles",
    "blend",
    "load_mixture",
    "oracle_gates",
    "read_manifest",
    "render_experts",
    "render_mixture",
    "render_sparse",
    "save_mixture",
    "softmax_gates",
    "uniform_gates",
]
