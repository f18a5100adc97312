"""What goes into a rasteriser and what comes out, the same for every backend."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.errors import ConfigError
from moegs.gaussians.container import Gaussians
from moegs.render.camera import Camera

ALPHA_MAX = 0.999  # one Gaussian never hides what is behind it entirely
ALPHA_MIN = 1.0 / 255.0  # fainter contributions are skipped
FOOTPRINTS = ("camera", "4dgs")
TILE = 16  # pixels along the side of a tile
TRANSMITTANCE_MIN = 1e-4  # a pixel is finished before its transmittance would fall to this


@dataclass(frozen=True)
class RasterOptions:
    """How one expert's Gaussians are turned into pixels. Travels with the expert, because the originals differ.

    Attributes:
        eps2d: low-pass filter, added to both diagonal entries of the image-plane covariance, in pixels squared.
        compensate: scale opacity by ``sqrt(det / det_filtered)`` so that the filter does not brighten small Gaussians.
        near: overrides the camera's near plane (world units) when given.
        far: overrides the camera's far plane when given.
        footprint: ``"camera"`` for ellipses as this camera sees them; ``"4dgs"`` for those of 4DGS where it knows cameras by
            focal lengths, as on Neural 3D Video: it takes a field of view of -1 rad for all. Places are right either way.

    Raises:
        ConfigError: there is no such footprint, or a number has no meaning.
    """

    eps2d: float = 0.3
    compensate: bool = False
    near: float | None = None
    far: float | None = None
    footprint: str = FOOTPRINTS[0]

    def __post_init__(self) -> None:
        if self.footprint not in FOOTPRINTS:
            raise ConfigError(f"footprint: expected {' or '.join(FOOTPRINTS)}, got {self.footprint!r}.")
        if not 0 <= self.eps2d < math.inf:
            raise ConfigError(f"raster options: expected eps2d of 0 or more, got {self.eps2d}.")
        near, far = 0.0 if self.near is None else self.near, math.inf if self.far is None else self.far
        if not 0 <= near < far or self.far == math.inf:  # a file of an expert could not hold infinity
            raise ConfigError(
                f"raster options: expected finite 0 <= near < far, or None for the camera's, got {self.near} and {self.far}."
            )


@dataclass(frozen=True)
class RasterInputs:
    """A validated request to a backend; made by :func:`moegs.render.rasterize`.

    ``groups`` are int32 tags 0…K-1 (None means one group), ``options`` and ``background`` have one entry a group.
    ``probe`` is ``[n, 2]``: its gradient receives the loss gradient with respect to each Gaussian's image position in
    pixels, or with ``absgrad`` the sum over pixels of the absolute per-pixel contributions to it (AbsGS).
    ``tiles`` says for every group which tiles of 16×16 pixels are drawn; the others show the background (None: all).
    """

    gaussians: Gaussians
    camera: Camera
    options: tuple[RasterOptions, ...]
    background: Float[Tensor, "g 3"]
    features: Float[Tensor, "n f"] | None = None
    groups: Int[Tensor, "n"] | None = None
    probe: Float[Tensor, "n 2"] | None = None
    absgrad: bool = False
    tiles: Bool[Tensor, "g rows columns"] | None = None

    @property
    def n_groups(self) -> int:
        return len(self.options)


@dataclass(frozen=True)
class RasterOutputs:
    """What a backend returns: one image a group, with a leading group dimension where the request has groups.

    ``color`` includes the background, ``depth`` is the accumulated ``sum_i T_i alpha_i z_i`` (camera z, world units),
    ``radii`` the half extent in pixels (x, y) of each Gaussian's footprint and 0 where it was not drawn.
    """

    color: Float[Tensor, "*g h w 3"]
    depth: Float[Tensor, "*g h w"]
    alpha: Float[Tensor, "*g h w"]
    features: Float[Tensor, "*g h w f"] | None
    radii: Float[Tensor, "n 2"]
