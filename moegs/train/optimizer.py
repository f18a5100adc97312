"""Adam over a flat dict of tensors, with state that follows Gaussians through densification."""

from __future__ import annotations

import torch
from torch import Tensor

from moegs.deform.prior import Schedule
from moegs.errors import DivergenceError
from moegs.gaussians.densify import Lineage, follow
from moegs.gaussians.params import Params, population_of
from moegs.train.checkpoint import all_moments, same_kind

EPS = 1e-15  # as in 3D Gaussian Splatting: rates are not damped by tiny gradients


class ParamsAdam:
    """Fused Adam with one learning-rate schedule a tensor.

    Tensors that no schedule names are left alone. The optimiser owns leaf copies of the trained tensors: read
    :attr:`params`, never hold on to a tensor across :meth:`replace`.
    """

    def __init__(self, params: Params, schedules: dict[str, Schedule], betas: tuple[float, float] = (0.9, 0.999)):
        self.schedules, self.betas = schedules, betas
        self._start(params, {})

    @property
    def params(self) -> Params:
        """Current tensors; the trained ones require grad."""
        return self._params

    def _start(self, params: Params, state: dict[str, dict[str, Tensor]]) -> None:
        self._params = {k: v.detach().clone().requires_grad_(k in self.schedules) for k, v in params.items()}
        groups = [{"params": [self._params[k]], "name": k, "lr": 0.0} for k in sorted(self.schedules)]
        self._adam = torch.optim.Adam(groups, betas=self.betas, eps=EPS, fused=True)
        for name, values in state.items():
            self._adam.state[self._params[name]] = {k: v.to(self._params[name].device) for k, v in values.items()}

    def step(self, progress: float, step: int, scale: float = 1.0) -> None:
        """Apply the gradients that lie on the tensors, then clear them.

        Args:
            progress: fraction of the run, for the schedules.
            step: number of the step, for messages.
            scale: factor on all learning rates.

        Raises:
            DivergenceError: a gradient is not finite; nothing was changed.
        """
        for name in self.schedules:
            grad = self._params[name].grad
            if grad is not None and not torch.isfinite(grad.sum()) and not torch.isfinite(grad).all():
                raise DivergenceError(
                    f"gradient of {name!r} is not finite at step {step}; the last checkpoint is intact. "
                    "Start anew in another folder with a lower rate of this tensor or another seed."
                )
        for group in self._adam.param_groups:
            group["lr"] = self.schedules[group["name"]].at(progress) * scale
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def replace(self, params: Params, lineage: Lineage) -> None:
        """Continue with edited parameters; moments follow their Gaussians and start at zero for fresh ones."""
        state = {}
        for name, values in self.state().items():
            population = population_of(name)
            if population is not None and population in lineage:
                values = {k: v if v.ndim == 0 else follow(v, lineage[population]) for k, v in values.items()}
            state[name] = values
        self._start(params, state)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Moments and step count of every tensor that has been stepped."""
        return {
            name: dict(self._adam.state[self._params[name]])
            for name in sorted(self.schedules)
            if self._params[name] in self._adam.state
        }

    def load(self, params: Params, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over parameters and state of another run.

        Raises:
            ShapeError: a moment does not fit its parameter, or is missing.
        """
        for name, moments in state.items():
            for moment, value in moments.items():
                same_kind(f"{name}/{moment}", value, params[name] if moment != "step" else torch.zeros(()))
        all_moments(state)
        self._start(params, state)
