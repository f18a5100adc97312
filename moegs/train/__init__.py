"""Optimisation loops, schedules, checkpoints and evaluation."""

from moegs.train.evaluate import Evaluation, evaluate, expert_renderer, mixture_renderer
from moegs.train.fit import FitConfig, fit_expert
from moegs.train.losses import photometric_loss
from moegs.train.route import RouteConfig, fit_router

__all__ = [
    "Evaluation",
    "FitConfig",
    "RouteConfig",
    "evaluate",
    "expert_renderer",
    "fit_expert",
    "fit_router",
    "mixture_renderer",
    "photometric_loss",
]
