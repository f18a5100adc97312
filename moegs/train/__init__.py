"""Optimisation loops, schedules and checkpoints."""

from moegs.train.fit import FitConfig, fit_expert
from moegs.train.losses import photometric_loss

__all__ = ["FitConfig", "fit_expert", "photometric_loss"]
