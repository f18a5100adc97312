"""The ``moegs`` command: finds its subcommands by name and turns errors into one clear line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import click

from moegs import __version__

# name → "module:attribute" in this package; modules must not import torch at their top, so that help answers at once
COMMANDS = {
    "doctor": "doctor:doctor",
    "data": "data:data",
    "train": "train:train",
    "route": "route:route",
    "select": "select:select",
    "refine": "refine:refine",
    "prune": "prune:prune",
    "distill": "distill:distill",
    "fuse": "fuse:fuse",
    "render": "render:render",
    "eval": "evaluate:evaluate",
    "info": "info:info",
    "import": "importing:import_",
    "export": "exporting:export",
}

EPILOG = """\b
A clip to a picture:
  moegs data synth clip
  moegs train clip --prior polynomial --out runs/poly
  moegs train clip --prior interpolation --out runs/keys
  moegs route clip --experts runs/poly runs/keys --out runs/mix
  moegs eval runs/mix clip
  moegs render runs/mix --data clip --out pictures --what mixture,gates
\b
Exit codes: 0 done, 1 failed (the message says on which file or field), 2 wrong usage, 130 interrupted.
"""


class Commands(click.Group):
    """Subcommands that are imported when they are asked for, and errors without tracebacks."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted; runs that keep checkpoints continue with --resume", 130)
        except Exception as error:
            if ctx.params.get("debug") or isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
                raise
            _explain(error)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, message="moegs %(version)s")
def main(debug: bool) -> None:
    """Mixture-of-experts dynamic Gaussian splatting.

    Train several models of a dynamic scene, learn which to trust at each pixel, and render the blend.
    """


def _explain(error: Exception) -> None:
    from moegs.errors import ConfigError, MoegsError

    if isinstance(error, ConfigError):
        _fail(str(error), 2)
    if isinstance(error, BrokenPipeError):  # the reader of our output went away, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1)
    if isinstance(error, MoegsError | OSError):
        _fail(str(error), 1)
    traceback.print_exception(error)
    _fail("this is a bug in moegs; please report it with the lines above", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"moegs: {message}", err=True)
    raise SystemExit(code)
