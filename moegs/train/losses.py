"""What training minimises."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError
from moegs.metrics.check import same_images
from moegs.metrics.ssim import ssim_inria
from moegs.render.native import ssim as native


def photometric_loss(
    image: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], lambda_dssim: float = 0.2
) -> Float[Tensor, ""]:
    """``(1 - lambda) * mean|image - target| + lambda * (1 - SSIM)`` (3D Gaussian Splatting, eq. 7).

    SSIM is the INRIA convention, :func:`moegs.metrics.ssim_inria`. On the CPU in float32 one native pass computes both
    terms and their gradient; torch does otherwise, and where ``target`` needs a gradient.

    Args:
        image: the render; gradients flow here.
        target: the photograph, in [0, 1].
        lambda_dssim: share of the structural term, 0 to 1.

    Raises:
        ConfigError: ``lambda_dssim`` is not in [0, 1].
        ShapeError: the images are not ``[h, w, c]`` of one shape, dtype and device.
    """
    same_images("photometric_loss", image, target)
    if not 0.0 <= lambda_dssim <= 1.0:
        raise ConfigError(f"photometric_loss: expected lambda_dssim in [0, 1], got {lambda_dssim}.")
    if native.usable(image, target):
        return native.photometric(image, target, l1_weight=1.0 - lambda_dssim, ssim_weight=lambda_dssim)
    absolute, similarity = (image - target).abs().mean(), ssim_inria(image, target)
    return (1.0 - lambda_dssim) * absolute + lambda_dssim * (1.0 - similarity)
