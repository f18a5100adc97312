"""The plan of the tables on a script's command line."""

from __future__ import annotations

import argparse

from moegs.report.paper.plan import PRIORS, Plan, numbered

_TEXTS = {
    "every": "score every n-th frame",
    "timed": "frames to time",
    "ratios": "fractions of Gaussians to prune",
    "criteria": "what Gaussians are ranked by",
    "rounds": "steps to a ratio",
    "scored": "training views that Gaussians are ranked on",
    "refit": "times refinement's steps that pruned mixtures learn on for",
    "fused": "times refinement's steps that the fused model learns on for",
    "shares": "of the experts' steps, for their budget",
    "distilled": "share of an expert's steps that a student is taught for",
    "min_gates": "gates below which an expert is left out",
    "bearable": "loss in dB that the fewest tiles are told for",
    "left_out": "cameras that stacking keeps from the experts",
}


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`plan_of` reads: an argument for every field of :class:`Plan`."""
    plan = parser.add_argument_group("what is compared")
    plan.add_argument("--budget", default="small", help="of each expert: small (default), medium or full")
    plan.add_argument("--experts", nargs="+", default=[*PRIORS], help="priors in order, repeats allowed")
    plan.add_argument("--mixed", type=int, help="how many of them where the table does not vary it, 3 by default")
    plan.add_argument("--steps", type=int, help="at most so many of anything, for a quick look")
    for name, text in _TEXTS.items():
        usual = getattr(Plan, name)
        told = " ".join(map(str, usual)) if isinstance(usual, tuple) else usual
        kind = {"nargs": "+", "type": type(usual[0])} if isinstance(usual, tuple) else {"type": type(usual)}
        plan.add_argument(f"--{name.replace('_', '-')}", default=usual, help=f"{text}, {told} by default", **kind)


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the arguments ask for.

    Raises:
        ConfigError: a value has no meaning; the message begins with the field.
    """
    given = {name: getattr(args, name) for name in _TEXTS}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    named = {"budget": args.budget, "experts": numbered(args.experts), "mixed": args.mixed, "steps": args.steps}
    return Plan(**given | lists | named)
