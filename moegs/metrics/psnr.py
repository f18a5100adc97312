"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from moegs.metrics.check import same_images


def psnr(image: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"]) -> float:
    """``-10 log10(mean squared error)`` in dB over all pixels and channels, for values in [0, 1].

    Equal images give infinity. The error is averaged over the whole image first: averaging the PSNR of the channels, as
    some code does, gives a higher figure.

    Raises:
        ShapeError: the images are not ``[h, w, c]`` of one shape, dtype and device.

    >>> import torch
    >>> round(psnr(torch.zeros(4, 4, 3), torch.full((4, 4, 3), 0.1)), 3)
    20.0
    """
    same_images("psnr", image, target)
    error = float((image.detach().double() - target.detach().double()).square().mean())
    return -10.0 * math.log10(error) if error != 0.0 else math.inf
