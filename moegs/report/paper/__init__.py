"""The paper's tables on any clips: models are trained once, figures are kept one file a cell."""

from moegs.report.paper.arguments import add_plan_arguments, plan_of
from moegs.report.paper.bench import Bench
from moegs.report.paper.cells import TABLES, cells_of, is_measured, label, lacks, rows_of
from moegs.report.paper.gather import gathered, markdown, write_plots, write_tables
from moegs.report.paper.plan import PRIORS, Plan, each_once, numbered

__all__ = [
    "PRIORS",
    "TABLES",
    "Bench",
    "Plan",
    "add_plan_arguments",
    "cells_of",
    "each_once",
    "gathered",
    "is_measured",
    "label",
    "lacks",
    "markdown",
    "numbered",
    "plan_of",
    "rows_of",
    "write_plots",
    "write_tables",
]
