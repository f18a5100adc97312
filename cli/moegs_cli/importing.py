"""``moegs import``: checkpoints of the original projects become experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._outputs import MANIFEST, force_option, refuse_beside_mixture, refuse_to_replace, remove_former
from .train import key_value


@click.command(
    "import",
    short_help="Turn a checkpoint of an original project into an expert.",
    epilog="\b\nExamples:\n"
    "  moegs import 4DGaussians/output/sear_steak --out expert.safetensors\n"
    "  moegs import SpacetimeGaussians/log/salmon_50 --out salmon.safetensors --format spacetime -o 'chunk=[1,6]'",
)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Expert's file, or folder for a mixture.")
@click.option("--format", "kind", default="auto", show_default=True, help="Project that wrote it; told from its files.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="What the files do not hold.")
@force_option
def import_(path: Path, out: Path, kind: str, options: tuple[str, ...], force: bool) -> None:
    """Read a checkpoint of one of the original projects from PATH and write it as ours.

    A mixture of MoE-GS becomes a mixture's folder. Nothing in the files is executed. An unknown option names those that
    the format knows.
    """
    from moegs.expert import Expert, save_expert
    from moegs.interop import load

    refuse_to_replace(out, force)
    loaded: Any = load(path, kind, **dict(key_value("-o", entry) for entry in options))
    if isinstance(loaded, Expert):
        refuse_beside_mixture(out)
        save_expert(loaded, out)
        click.echo(f"{out}: {loaded.prior.name}, {len(loaded):,} Gaussians")
        return
    from moegs.interop import to_mixture
    from moegs.route import save_mixture

    mixture = to_mixture(loaded)
    save_mixture(mixture, out, loaded.meta)
    if force:
        remove_former(out, keep={MANIFEST})
    click.echo(f"{out}: mixture of {', '.join(mixture.experts)}")
