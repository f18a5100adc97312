"""Gates and blending at one pixel grid."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError, ShapeError
from moegs.render.native import gates as native


def softmax_gates(logits: Float[Tensor, "k h w"], temperature: float | Tensor = 1.0) -> Float[Tensor, "k h w"]:
    """``softmax_k(logits / temperature)`` at every pixel (MoE-GS eq. 8).

    Args:
        logits: preference for each expert at every pixel; minus infinity leaves one out.
        temperature: divides them; a tensor of one value may be learnt.

    Returns:
        Weights that sum to one over the experts.

    Raises:
        ConfigError: the temperature is not above 0.
    """
    _check_temperature(temperature)
    return torch.softmax(logits / temperature, dim=0)


def _check_temperature(temperature: float | Tensor) -> None:
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature: expected a number above 0, got {temperature}.")


def blend(images: Float[Tensor, "k h w 3"], gates: Float[Tensor, "k h w"]) -> Float[Tensor, "h w 3"]:
    """Mix the experts' renders with per-pixel gates (MoE-GS eq. 9).

    Args:
        images: one render per expert, linear in [0, 1].
        gates: weights that sum to one over the experts at every pixel.

    Returns:
        The mixture, ``sum_k gates[k] * images[k]``.

    Raises:
        ShapeError: the two disagree in experts, height or width.

    Example:
        >>> images = torch.stack([torch.zeros(1, 1, 3), torch.ones(1, 1, 3)])
        >>> blend(images, torch.tensor([[[0.75]], [[0.25]]]))
        tensor([[[0.2500, 0.2500, 0.2500]]])
    """
    _check_grid(images, gates, "gates")
    return (images * gates[..., None]).sum(dim=0)  # twice as fast as einsum


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0:
        raise ShapeError(f"gates: expected images [k, h, w, 3] of one expert or more, got {list(images.shape)}.")


def _check_grid(images: Tensor, maps: Tensor, name: str) -> None:
    if images.ndim != 4 or images.shape[:3] != maps.shape:
        raise ShapeError(f"blend: images {list(images.shape)} and {name} {list(maps.shape)} are not one grid of experts.")


def gated_blend(
    images: Float[Tensor, "k h w 3"], logits: Float[Tensor, "k h w"], temperature: float | Tensor = 1.0
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "k h w"]]:
    """:func:`blend` with the :func:`softmax_gates` of logits, and these gates: the same in one pass over the pixels.

    Args:
        images: one render per expert, linear in [0, 1].
        logits: preference for each expert at every pixel; minus infinity leaves one out.
        temperature: divides the logits; a tensor of one value may be learnt.

    Raises:
        ShapeError: the two disagree in experts, height or width.
        ConfigError: the temperature is not above 0.

    Example:
        >>> color, gates = gated_blend(torch.stack([torch.zeros(1, 1, 3), torch.ones(1, 1, 3)]), torch.zeros(2, 1, 1))
        >>> color
        tensor([[[0.5000, 0.5000, 0.5000]]])
    """
    _check_grid(images, logits, "logits")
    _check_temperature(temperature)
    learnt = isinstance(temperature, Tensor) and temperature.requires_grad
    if images.shape[-1] == 3 and not learnt and native.usable(images, logits):
        return native.gated_blend(images, logits, float(temperature))
    gates = softmax_gates(logits, temperature)
    return blend(images, gates), gates


def uniform_gates(images: Float[Tensor, "k h w 3"]) -> Float[Tensor, "k h w"]:
    """Equal gates: the plain average of the experts, a yardstick that any router has to beat.

    Raises:
        ShapeError: these are not one image or more.
    """
    _check_images(images)
    return images.new_full(images.shape[:3], 1.0 / images.shape[0])


def oracle_gates(images: Float[Tensor, "k h w 3"], truth: Float[Tensor, "h w 3"]) -> Float[Tensor, "k h w"]:
    """One-hot gates of the expert nearest to the truth at every pixel: the bound for routers that choose one expert.

    Nearest as pictures are shown, with values in [0, 1]. What is not a number is farther than anything else.

    Raises:
        ShapeError: these are not one image or more, or the truth is of another size.
    """
    _check_images(images)
    if truth.shape != images.shape[1:]:
        raise ShapeError(f"oracle_gates: expected a truth of {list(images.shape[1:])}, got {list(truth.shape)}.")
    error = (images.clamp(0, 1) - truth).square().sum(-1).nan_to_num(torch.inf)
    return torch.nn.functional.one_hot(error.argmin(0), images.shape[0]).permute(2, 0, 1).to(images)
