"""Structural similarity in the conventions that the field's tables mix up, each under its own name.

Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004, eq. 13:
``SSIM = (2 mu_x mu_y + C1)(2 sigma_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(sigma_x^2 + sigma_y^2 + C2))``.
The conventions differ in the window, the border, the unbiasing of the variances and the constants.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

from moegs.errors import ConfigError, ShapeError
from moegs.metrics.check import same_images
from moegs.render.native import ssim as native

WINDOW = 11  # taps of the Gaussian window, per axis
SIGMA = 1.5  # its standard deviation in pixels
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]
SKIMAGE_WINDOW = 7  # pixels a side of scikit-image's uniform window


def ssim_inria(image: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"]) -> Float[Tensor, ""]:
    """SSIM as the Gaussian-splatting papers train and report it.

    Gaussian 11x11 window with sigma 1.5, zero padding, biased variances, C1 = 0.01², C2 = 0.03², mean over all pixels
    and channels. Differentiable in both images; float32 and float64, any device. This is the reference that the native
    kernel is held against.

    Raises:
        ShapeError: the images are not ``[h, w, c]`` of one shape, dtype and device.

    >>> grey = torch.full((16, 16, 3), 0.5)
    >>> round(float(ssim_inria(grey, grey)), 4), round(float(ssim_inria(grey, 0.5 * grey)), 4)
    (1.0, 0.6831)
    """
    same_images("ssim_inria", image, target)
    return _similarity(image, target).mean()


def _similarity(image: Tensor, target: Tensor) -> Float[Tensor, "c h w"]:
    x, y = image.permute(2, 0, 1), target.permute(2, 0, 1)
    mean_x, mean_y, square_x, square_y, product = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return luminance * (2 * covariance + C2) / (variances + C2)


def _blur(maps: Float[Tensor, "m c h w"]) -> Float[Tensor, "m c h w"]:
    flat = maps.reshape(1, -1, *maps.shape[-2:])  # depthwise: 20 times faster than a batch of planes
    depth = flat.shape[1]
    taps = gaussian_taps().to(maps).expand(depth, 1, WINDOW)
    flat = conv2d(flat, taps[..., None], padding=(WINDOW // 2, 0), groups=depth)
    return conv2d(flat, taps[:, :, None], padding=(0, WINDOW // 2), groups=depth).view(maps.shape)


def gaussian_taps() -> Float[Tensor, " taps"]:
    """The normalised 1D window in float64; the 2D one is its outer product with itself."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    taps = torch.exp(-(offset**2) / (2 * SIGMA**2))
    return taps / taps.sum()


def ssim_skimage(image: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"], data_range: int) -> float:
    """SSIM as scikit-image computes it: uniform 7x7 window, unbiased variances, the 3-pixel border left out.

    ``data_range=1`` is what images in [0, 1] ask for; ``data_range=2`` is what older scikit-image assumed of any float
    image, and what published "D-SSIM_2" figures stand on. Name the one you report.

    Raises:
        ConfigError: ``data_range`` is neither 1 nor 2.
        ShapeError: the images differ, or are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    same_images("ssim_skimage", image, target)
    if data_range not in (1, 2):
        raise ConfigError(f"ssim_skimage: expected data_range 1 or 2, got {data_range}.")
    if min(image.shape[:2]) < SKIMAGE_WINDOW:
        raise ShapeError(f"ssim_skimage: expected at least 7x7 pixels, got {list(image.shape)}; use ssim_inria.")
    x, y = (t.detach().to("cpu", torch.float64).numpy() for t in (image, target))
    return float(structural_similarity(x, y, win_size=SKIMAGE_WINDOW, channel_axis=2, data_range=data_range))


def dssim(similarity: float) -> float:
    """Structural dissimilarity ``(1 - SSIM) / 2``.

    HyperReel's D-SSIM_1 and D-SSIM_2 are this of :func:`ssim_skimage` with ``data_range`` 1 and 2.
    """
    return (1.0 - similarity) / 2.0


def ssim_loss(image: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"]) -> Float[Tensor, ""]:
    """``1 - ssim_inria(image, target)`` by the fastest kernel at hand, for training.

    The native kernel runs for float32 on the CPU where it is built and ``target`` needs no gradient; torch otherwise.

    Raises:
        ShapeError: the images are not ``[h, w, c]`` of one shape, dtype and device.
    """
    same_images("ssim_loss", image, target)
    if native.usable(image, target):
        return native.photometric(image, target, l1_weight=0.0, ssim_weight=1.0)
    return 1.0 - ssim_inria(image, target)
