"""Multi-view video in: layouts of the field's datasets, a frame cache, checks, and a synthetic scene."""

from moegs.data.arguments import add_clip_arguments, scene_of
from moegs.data.checks import check
from moegs.data.findings import CaptureError, CaptureFormatError, Finding
from moegs.data.frames import FrameStore
from moegs.data.scene import Scene, View, load_n3v, load_scene, load_technicolor
from moegs.data.surface import SurfaceConfig, surface_points
from moegs.data.sweep import SweepConfig, moving_points, with_moving_points
from moegs.data.synth import synthesize
from moegs.gaussians.cloud import PointCloud

__all__ = [
    "CaptureError",
    "CaptureFormatError",
    "Finding",
    "FrameStore",
    "PointCloud",
    "Scene",
    "SurfaceConfig",
    "SweepConfig",
    "View",
    "add_clip_arguments",
    "check",
    "load_n3v",
    "load_scene",
    "load_technicolor",
    "moving_points",
    "scene_of",
    "surface_points",
    "synthesize",
    "with_moving_points",
]
