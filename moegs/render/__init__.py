"""Cameras and differentiable rasterisation of Gaussians."""

from moegs.render.api import Render, expected_depth, rasterize, shares, splat
from moegs.render.backends import usable_device
from moegs.render.camera import Camera, rays
from moegs.render.types import RasterInputs, RasterOptions, RasterOutputs
from moegs.render.viewpoint import Viewpoint

__all__ = [
    "Camera",
    "RasterInputs",
    "RasterOptions",
    "RasterOutputs",
    "Render",
    "Viewpoint",
    "expected_depth",
    "rasterize",
    "rays",
    "shares",
    "splat",
    "usable_device",
]
