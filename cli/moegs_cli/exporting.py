"""``moegs export``: an expert in a format that other programs read."""

from __future__ import annotations

from pathlib import Path

import click

from ._models import open_only_expert
from ._outputs import force_option, refuse_to_replace


@click.command(
    short_help="Write an expert as .ply files or in its original layout.",
    epilog="\b\nExamples:\n"
    "  moegs export runs/poly --out frames --format ply --frames 48\n"
    "  moegs export expert.safetensors --out run --format original"
)
@click.argument("expert", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the files.")
@click.option(
    "--format", "kind", type=click.Choice(["ply", "original"]), default="ply", show_default=True,
    help="ply: one INRIA .ply a frame. original: the layout of the project that invented the prior.",
)
@click.option("--frames", type=click.IntRange(1), default=None, help="Number of .ply files; as the clip by default.")
@click.option(
    "--as-trained", is_flag=True,
    help="Leave Gaussians as they are, for programs that draw them as moegs does (info tells how); .ply files only.",
)
@force_option
def export(expert: Path, out: Path, kind: str, frames: int | None, as_trained: bool, force: bool) -> None:
    """Write EXPERT as one .ply a frame, or in its prior's original layout.

    Experts are trained with a filter as narrow as a pixel. Viewers of .ply files draw with a wider one, so Gaussians are
    rewritten for it, which costs 0.5 to 4 dB; train with --no-antialias if such files or the original programs are the aim.
    """
    from moegs.errors import ConfigError
    from moegs.interop import export as export_original
    from moegs.interop import export_ply_sequence, fits_viewers, unlike_original

    refuse_to_replace(out, force)
    loaded = open_only_expert(expert)
    if kind == "original":
        click.echo(export_original(loaded, out))
        if other := unlike_original(loaded):
            click.echo(
                f"Note: the original program draws this expert with another {' and another '.join(other)}; moegs reads the "
                "files back as they were. For the original, train with --no-antialias and --set (docs/priors.md).", err=True,
            )  # fmt: skip
        return
    count = frames or loaded.meta.get("n_frames")
    if count is None:
        raise ConfigError(f"{expert}: does not say how many frames its clip had; give --frames.")
    files = export_ply_sequence(loaded, out, [i / count for i in range(count)], as_trained=as_trained)
    click.echo(f"{out}: {len(files)} files")
    if not as_trained and not fits_viewers(loaded):
        click.echo(
            "Note: these Gaussians are meant for a narrower low-pass filter than most viewers have, and do not say from "
            "where they were seen, so they are written as they are and will look too thick.", err=True,
        )  # fmt: skip
