"""``moegs data``: make a synthetic capture, look for what is wrong with one, or clear the cache of decoded frames."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moegs.data import Finding


@click.group()
def data() -> None:
    """Make and check captures, clear decoded frames."""


@data.command(epilog="\b\nExample:\n  moegs data synth clip --cameras 8 --frames 12 --size 128x96")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--cameras", type=int, default=12, show_default=True, help="Number of cameras; the first is held out.")
@click.option("--frames", type=int, default=24, show_default=True, help="Length of the clip.")
@click.option("--size", default="192x144", show_default=True, metavar="WxH", help="Width and height in pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of textures, rig and noise.")
def synth(out: Path, cameras: int, frames: int, size: str, seed: int) -> None:
    """Cast a synthetic scene into the new folder OUT, in the layout of Neural 3D Video.

    A textured room with things that move in different ways: smoothly, articulated, abruptly, appearing, blinking. True
    depth comes with it. Nothing is downloaded.
    """
    from moegs.data.synth import synthesize

    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise click.BadParameter(f"expected WIDTHxHEIGHT such as 192x144, got {size!r}.", param_hint="--size")
    synthesize(out, cameras=cameras, frames=frames, size=(int(width), int(height)), seed=seed)
    click.echo(f"{out}: {cameras} cameras, {frames} frames of {width}x{height}")


@data.command(epilog="\b\nExample:\n  moegs data check captures/coffee_martini && echo ready to train")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--decode/--no-decode", default=True, help="Also decode every frame, to find damage inside videos.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(folder: Path, decode: bool, as_json: bool) -> None:
    """Look for everything that is wrong with the capture in FOLDER, worst first.

    Each finding names file and field. Exits with 1 if one of them is an error, which would stop training.
    """
    from moegs.data import check as check_capture

    findings = check_capture(folder, decode=decode)
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        _print(findings)
    raise SystemExit(1 if any(f.severity == "error" for f in findings) else 0)


@data.command(epilog="\b\nExamples:\n  moegs data cache\n  moegs data cache --clear")
@click.option(
    "--frame-cache", type=click.Path(file_okay=False, path_type=Path), default=None,
    help="Another folder than $XDG_CACHE_HOME/moegs/frames.",
)
@click.option("--clear", is_flag=True, help="Delete them; not while something trains on them.")
def cache(frame_cache: Path | None, clear: bool) -> None:
    """Say where decoded frames are kept and how much they take, or delete them.

    Nothing else deletes them. What is missing is decoded again from the capture.
    """
    from moegs.data.frames import cached_files, default_cache

    files = cached_files(frame_cache)
    size = sum(file.stat().st_size for file in files)
    for file in files if clear else ():
        file.unlink(missing_ok=True)
    done = "deleted" if clear else "in use by decoded frames"
    click.echo(f"{frame_cache or default_cache()}: {len(files)} files, {size / 2**20:.0f} MiB {done}")


def _print(findings: list[Finding]) -> None:
    colors = {"error": "red", "warning": "yellow", "info": "green"}
    for finding in findings:
        click.echo(click.style(f"{finding.severity:8}", fg=colors[finding.severity]) + str(finding))
    counts = {s: sum(f.severity == s for f in findings) for s in ("error", "warning")}
    click.echo(f"{counts['error']} errors, {counts['warning']} warnings")
