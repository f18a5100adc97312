"""Checking gradients cheaply."""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(*outputs: Tensor) -> Tensor:
    """One random combination of the numbers of each output.

    An error in the gradient of any number shows in that of the combination, and ``gradcheck`` goes back once an output
    instead of once a number.
    """
    generator = torch.Generator().manual_seed(7)
    return torch.stack([v.flatten() @ torch.randn(v.numel(), dtype=v.dtype, generator=generator) for v in outputs])
