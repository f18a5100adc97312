"""Optimisation loops, schedules, checkpoints and evaluation."""

from moegs.train.budgets import BUDGETS, budget, refine_budget, route_budget
from moegs.train.evaluate import Evaluation, evaluate, expert_renderer, mixture_renderer, sparse_renderer
from moegs.train.fit import ANTIALIASED, FitConfig, fit_expert
from moegs.train.losses import photometric_loss
from moegs.train.memory import freed_memory_kept
from moegs.train.onward import train_on
from moegs.train.refine import RefineConfig, refine_mixture, usual_dropout
from moegs.train.route import RouteConfig, fit_router
from moegs.train.runs import fit_or_load, run_recipe
from moegs.train.views import sample_views, stacking_split
from moegs.train.yardsticks import fewest_tiles, sparse_error, yardsticks

__all__ = [
    "ANTIALIASED",
    "BUDGETS",
    "Evaluation",
    "FitConfig",
    "RefineConfig",
    "RouteConfig",
    "budget",
    "evaluate",
    "expert_renderer",
    "fewest_tiles",
    "fit_expert",
    "fit_or_load",
    "fit_router",
    "freed_memory_kept",
    "mixture_renderer",
    "photometric_loss",
    "refine_budget",
    "refine_mixture",
    "route_budget",
    "run_recipe",
    "sample_views",
    "sparse_error",
    "sparse_renderer",
    "stacking_split",
    "train_on",
    "usual_dropout",
    "yardsticks",
]
