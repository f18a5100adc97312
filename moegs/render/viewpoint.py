"""A camera and a moment."""

from __future__ import annotations

from typing import NamedTuple

from moegs.render.camera import Camera


class Viewpoint(NamedTuple):
    """From where and when Gaussians are looked at, for what needs no photograph: scoring, trust, rendering.

    A :class:`moegs.data.View` will do wherever one of these is asked for.

    Attributes:
        camera: the camera.
        time: clip-normalised, in [0, 1].
    """

    camera: Camera
    time: float
