"""From the Gaussians of several experts to per-pixel gates and one image."""

from moegs.route.blend import blend, gated_blend, oracle_gates, softmax_gates, uniform_gates
from moegs.route.fuse import fuse, responsibilities
from moegs.route.mixture import Mixture, load_mixture, load_router, mixture_key, read_manifest, save_mixture
from moegs.route.render import MixtureRender, render_experts, render_mixture
from moegs.route.routers import PixelRouter, RouterConfig, VolumePixelRouter, router_from_config
from moegs.route.sparse import SparseRender, active_tiles, render_sparse
from moegs.route.volume import VolumeRouter, volume_expert

__all__ = [
    "Mixture",
    "MixtureRender",
    "PixelRouter",
    "RouterConfig",
    "SparseRender",
    "VolumePixelRouter",
    "VolumeRouter",
    "active_tiles",
    "blend",
    "fuse",
    "gated_blend",
    "load_mixture",
    "load_router",
    "mixture_key",
    "oracle_gates",
    "read_manifest",
    "render_experts",
    "render_mixture",
    "render_sparse",
    "responsibilities",
    "router_from_config",
    "save_mixture",
    "softmax_gates",
    "uniform_gates",
    "volume_expert",
]
