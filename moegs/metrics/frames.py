"""Scores of one frame, and of a clip."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError
from moegs.metrics.psnr import psnr
from moegs.metrics.ssim import SKIMAGE_WINDOW, dssim, ssim_inria, ssim_skimage

NOT_COMPUTED = "not computed"

Perceptual = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class FrameScores:
    """How near one render is to the photograph. Every SSIM is named after its convention.

    Attributes:
        psnr: dB, higher is better; infinite for equal images.
        ssim_inria: 11x11 Gaussian, zero padding.
        ssim_skimage1: scikit-image with data_range 1, or None for images under 7x7.
        ssim_skimage2: scikit-image with data_range 2, or None for images under 7x7.
        lpips: perceptual distance, lower is better, or None where no network was given.
    """

    psnr: float
    ssim_inria: float
    ssim_skimage1: float | None
    ssim_skimage2: float | None
    lpips: float | None = None

    @property
    def dssim1(self) -> float | None:
        """HyperReel's D-SSIM_1."""
        return None if self.ssim_skimage1 is None else dssim(self.ssim_skimage1)

    @property
    def dssim2(self) -> float | None:
        """HyperReel's D-SSIM_2."""
        return None if self.ssim_skimage2 is None else dssim(self.ssim_skimage2)

    def to_json(self) -> dict[str, float | str | None]:
        """All scores by name, D-SSIM included: "not computed" where there is none, None where it is not finite."""
        values = asdict(self) | {"dssim1": self.dssim1, "dssim2": self.dssim2}
        return {name: _json(value) for name, value in values.items()}


def _json(value: float | None) -> float | str | None:
    if value is None:
        return NOT_COMPUTED
    return value if math.isfinite(value) else None


def score(
    image: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], perceptual: Perceptual | None = None
) -> FrameScores:
    """Score one frame. The render is clamped to [0, 1] first, as a display would.

    Args:
        image: the render, linear in [0, 1] up to overshoot.
        target: the photograph in [0, 1].
        perceptual: an LPIPS distance, see :func:`moegs.metrics.load_lpips`.

    Raises:
        ShapeError: the images are not ``[h, w, c]`` of one shape, dtype and device.
    """
    image = image.detach().clamp(0.0, 1.0)
    similarity = float(ssim_inria(image, target.detach()))
    large = min(image.shape[:2]) >= SKIMAGE_WINDOW
    return FrameScores(
        psnr=psnr(image, target),
        ssim_inria=similarity,
        ssim_skimage1=ssim_skimage(image, target, data_range=1) if large else None,
        ssim_skimage2=ssim_skimage(image, target, data_range=2) if large else None,
        lpips=None if perceptual is None else perceptual(image, target),
    )


def summarise(frames: Sequence[FrameScores]) -> FrameScores:
    """Arithmetic mean of each score over the frames of a clip: PSNR too, which is not the PSNR of the mean error.

    A score that any frame lacks is not computed for the clip.

    Raises:
        ConfigError: there are no frames.
    """
    if not frames:
        raise ConfigError("summarise: expected the scores of at least one frame, got none.")
    return FrameScores(
        psnr=statistics.fmean(frame.psnr for frame in frames),
        ssim_inria=statistics.fmean(frame.ssim_inria for frame in frames),
        ssim_skimage1=_mean([frame.ssim_skimage1 for frame in frames]),
        ssim_skimage2=_mean([frame.ssim_skimage2 for frame in frames]),
        lpips=_mean([frame.lpips for frame in frames]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
