"""Which part of a capture a script works on: arguments of its command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from moegs.data.scene import Scene, load_scene


def add_clip_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`scene_of` reads: ``--scale --start --frames --test --frame-cache``.

    They are those of the commands, but for ``--test none``: scripts measure on held-out cameras.
    """
    clip = parser.add_argument_group("which part of a capture")
    clip.add_argument("--scale", type=float, default=1.0, help="factor on width and height, up to 1")
    clip.add_argument("--start", type=int, default=0, help="first frame, 0 by default")
    clip.add_argument("--frames", type=int, help="how many; all by default")
    clip.add_argument("--test", help="cameras to hold out, comma-separated; by default the layout's")
    kept = "where decoded frames are kept; $XDG_CACHE_HOME/moegs/frames by default"
    clip.add_argument("--frame-cache", type=Path, metavar="DIR", help=kept)


def scene_of(args: argparse.Namespace, path: Path) -> Scene:
    """The capture at a path, or the part of it that the arguments ask for.

    Raises:
        CaptureError, ConfigError: as :func:`moegs.data.load_scene`.
    """
    test = None if args.test is None else args.test.split(",")
    return load_scene(
        path, scale=args.scale, start=args.start, frames=args.frames, test=test, cache_dir=args.frame_cache
    )
