"""What a student minimises."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError, ShapeError
from moegs.metrics.check import same_images
from moegs.train.losses import photometric_loss


def distillation_loss(
    image: Float[Tensor, "h w 3"],
    truth: Float[Tensor, "h w 3"],
    teacher: Float[Tensor, "h w 3"],
    gate: Float[Tensor, "h w"],
    weight: float = 0.5,
    lambda_dssim: float = 0.2,
) -> Float[Tensor, ""]:
    """``w L(G·I, G·I_gt) + (1 - w) L((1 - G)·I, (1 - G)·I_MoE)`` (MoE-GS §3.4).

    Where the mixture trusts the student, the photograph teaches; elsewhere the mixture does. L is
    :func:`moegs.train.photometric_loss`.

    Args:
        image: the student's render; gradients flow here alone.
        truth: the photograph.
        teacher: the mixture's render.
        gate: frozen gate of the student, in [0, 1].
        weight: share of the photograph's term, in [0, 1].
        lambda_dssim: share of the structural term in L.

    Raises:
        ConfigError: ``weight`` is not in [0, 1].
        ShapeError: the three images and the gate are not one grid.

    Example:
        >>> import torch
        >>> flat = [torch.full((12, 12, 3), v) for v in (0.5, 0.7, 0.9)]
        >>> round(distillation_loss(*flat, torch.full((12, 12), 0.5), lambda_dssim=0.0).item(), 3)
        0.15
    """
    if not 0.0 <= weight <= 1.0:
        raise ConfigError(f"distillation_loss: expected a weight in [0, 1], got {weight}.")
    same_images("distillation_loss: photograph", image, truth)
    same_images("distillation_loss: teacher", image, teacher)
    if gate.shape != image.shape[:2]:
        raise ShapeError(f"distillation_loss: gate {list(gate.shape)} does not match image {list(image.shape)}.")
    own, others = gate.detach()[..., None], 1 - gate.detach()[..., None]
    taught = photometric_loss(own * image, own * truth, lambda_dssim)
    copied = photometric_loss(others * image, others * teacher.detach(), lambda_dssim)
    return weight * taught + (1 - weight) * copied
