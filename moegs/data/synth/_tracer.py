"""A small ray caster: one primary ray a sample, Lambert light and highlights, what stands still is cast once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from moegs.data.synth._shapes import Body
from moegs.data.synth._stage import Stage
from moegs.render.camera import Camera

SAMPLES = 3  # along each side of a pixel; odd, so that one of them is its centre
_LIGHTS = (((-0.5, -0.75, -0.45), 0.5), ((0.7, -0.3, -0.6), 0.22))  # towards the light, strength
_AMBIENT = 0.4


@dataclass(frozen=True, eq=False)
class Layer:
    """Supersampled picture: colour ``[H, W, 3]`` and camera z ``[H, W]`` (infinite where nothing is)."""

    color: Float[np.ndarray, "H W 3"]
    depth: Float[np.ndarray, "H W"]

    def copy(self) -> Layer:
        """Another layer to draw on."""
        return Layer(self.color.copy(), self.depth.copy())

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The mean over each pixel's samples, 8-bit."""
        height, width = (n // SAMPLES for n in self.depth.shape)
        mean = self.color.reshape(height, SAMPLES, width, SAMPLES, 3).mean((1, 3))
        return (np.clip(mean, 0, 1) * 255 + 0.5).astype(np.uint8)

    def centre_depth(self) -> Float[np.ndarray, "h w"]:
        """Camera z at the pixel centres."""
        return self.depth[SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]


class Tracer:
    """Casts the rays of one camera; ``rays`` have camera z of one, so that ray parameters are depths."""

    def __init__(self, camera: Camera) -> None:
        view, self.k = camera.viewmat.double().numpy(), camera.K.double().numpy()
        self.rotation, self.translation = view[:3, :3], view[:3, 3]
        self.origin = -self.rotation.T @ self.translation
        self.shape = camera.height * SAMPLES, camera.width * SAMPLES
        x = ((np.arange(self.shape[1]) + 0.5) / SAMPLES - self.k[0, 2]) / self.k[0, 0]
        y = ((np.arange(self.shape[0]) + 0.5) / SAMPLES - self.k[1, 2]) / self.k[1, 1]
        grid = np.stack([*np.meshgrid(x, y), np.ones(self.shape)], axis=-1)
        self.rays = (grid @ self.rotation).astype(np.float32)

    def frames(self, stage: Stage, count: int) -> Iterator[Layer]:
        """Cast every frame of a clip."""
        empty = Layer(np.zeros((*self.shape, 3), np.float32), np.full(self.shape, np.inf, np.float32))
        still = self.draw(empty, stage.static())
        for frame in range(count):
            yield self.draw(still.copy(), stage.moving(frame / count))

    def draw(self, layer: Layer, bodies: Iterable[Body]) -> Layer:
        """Draw bodies onto a layer, in any order."""
        for body in bodies:
            rows, columns = self._window(body)
            rays, depth = self.rays[rows, columns], layer.depth[rows, columns]
            t = body.hit(self.origin, rays.reshape(-1, 3)).reshape(depth.shape)
            nearer = t < depth
            depth[nearer] = t[nearer]
            layer.color[rows, columns][nearer] = self._shade(body, rays[nearer], t[nearer])
        return layer

    def _window(self, body: Body) -> tuple[slice, slice]:
        """Rows and columns of samples that a body can touch: the box around its projected corners."""
        local = body.corners() @ self.rotation.T + self.translation
        if body.shape == "room" or local[:, 2].min() < 0.1:
            return slice(None), slice(None)
        pixels = (local @ self.k.T)[:, :2] / local[:, 2:] * SAMPLES
        low = np.maximum(np.floor(pixels.min(0)), 0).astype(int)
        high = np.maximum(np.ceil(pixels.max(0)), 0).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])

    def _shade(self, body: Body, rays: Float[np.ndarray, "n 3"], t: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
        points = self.origin.astype(np.float32) + rays * t[:, None]
        local, normals = body.surface(points)
        color = body.texture.color(local)
        if body.emits:
            return color
        light = np.full(len(points), _AMBIENT, np.float32)
        shine = np.zeros(len(points), np.float32)
        eye = -rays / np.linalg.norm(rays, axis=1, keepdims=True)
        for direction, strength in _LIGHTS:
            towards = np.asarray(direction, np.float32) / np.linalg.norm(direction)
            light += strength * np.maximum(normals @ towards, 0)
            half = (eye + towards) / np.linalg.norm(eye + towards, axis=1, keepdims=True)
            shine += body.gloss * np.maximum((normals * half).sum(1), 0) ** 40
        return color * light[:, None] + shine[:, None]
