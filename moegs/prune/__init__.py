"""Making a mixture smaller: scores of how much each Gaussian is needed, and dropping those that are not."""

from moegs.prune.alone import prune_expert
from moegs.prune.curve import CurvePoint, megabytes, pruning_curve, write_curve
from moegs.prune.refit import prune_and_refit, refit
from moegs.prune.scores import (
    CRITERIA,
    blend_sensitivity,
    contribution,
    criterion,
    gate_sensitivity,
    gated_contribution,
    opacity,
    random,
)
from moegs.prune.select import PruneReport, kept_rows, prune, prune_in_rounds

__all__ = [
    "CRITERIA",
    "CurvePoint",
    "PruneReport",
    "blend_sensitivity",
    "contribution",
    "criterion",
    "gate_sensitivity",
    "gated_contribution",
    "kept_rows",
    "megabytes",
    "opacity",
    "prune",
    "prune_and_refit",
    "prune_expert",
    "prune_in_rounds",
    "pruning_curve",
    "random",
    "refit",
    "write_curve",
]
