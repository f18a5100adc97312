"""The mean of a run's tensors over its last part (Polyak averaging), between the swings that single views cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

EVERY = 5  # steps; neighbours differ by too little to be worth the time


@dataclass
class Average:
    """Equal weights for all states that are taken up.

    Attributes:
        first: number of steps after which the first state is taken up.
        mean: by name, empty until then.
    """

    first: int
    mean: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def over(cls, share: float, steps: int) -> Self:
        """Over the last part of a run: of every fifth state, counted back from the last one, which is always among them."""
        return cls(steps - EVERY * min(int(share * steps / EVERY), (steps - 1) // EVERY))

    def take(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Take up the state after a number of steps, if it is one of those that count."""
        taken, rest = divmod(step - self.first, EVERY)
        if taken < 0 or rest:
            return
        with torch.no_grad():
            for name, tensor in tensors.items():
                if taken == 0:
                    self.mean[name] = tensor.detach().clone()
                else:
                    self.mean[name].lerp_(tensor, 1 / (taken + 1))
