"""What training minimises."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from moegs.metrics.ssim import ssim_loss


def photometric_loss(
    image: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], lambda_dssim: float = 0.2
) -> Float[Tensor, ""]:
    """``(1 - lambda) * mean|image - target| + lambda * (1 - SSIM)`` (3D Gaussian Splatting, eq. 7).

    SSIM is the INRIA convention, :func:`moegs.metrics.ssim_inria`.

    Args:
        image: the render; gradients flow here.
        target: the photograph, in [0, 1].
        lambda_dssim: share of the structural term, 0 to 1.

    Raises:
        ShapeError: the images are not ``[h, w, c]`` of one shape, dtype and device.
    """
    absolute = (image - target).abs().mean()
    if lambda_dssim == 0:
        return absolute
    return (1.0 - lambda_dssim) * absolute + lambda_dssim * ssim_loss(image, target)
