"""``moegs render``: pictures and videos of an expert or a mixture."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ._models import is_mixture, open_model, warn_if_other_clip
from ._outputs import force_option, refuse_to_replace
from ._scenes import backend_option, cameras_named, device_of, open_scene, scene_options

if TYPE_CHECKING:
    from moegs.data import Scene
    from moegs.render import Camera

SPIRAL_FRAMES = 120  # four seconds, unless the clip is longer
_NUMBERED = re.compile(r"[0-9]{5,}\.png")  # as open_pngs names them


@click.command(
    short_help="Render an expert or a mixture as PNGs or mp4.",
    epilog="\b\nExamples:\n"
    "  moegs render runs/mix --data clip --out pictures\n"
    "  moegs render runs/mix --data clip --out pictures --what mixture,experts,gates,depth --camera cam03\n"
    "  moegs render runs/mix --data clip --out movies --camera spiral --format mp4 --fps 30 --min-gate 0.05"
)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="The capture, for its cameras.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the pictures.")
@click.option(
    "--what", default=None, metavar="KINDS",
    help="Some of mixture, experts, gates, depth, separated by commas; the final image by default.",
)
@click.option(
    "--camera", default="test", show_default=True,
    help="test, train, spiral (a path around the middle of the rig), or names of cameras separated by commas.",
)
@click.option("--format", "kind", type=click.Choice(["png", "mp4"]), default="png", show_default=True)
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), default=None, help="Of mp4; the clip's by default.")
@click.option("--count", type=click.IntRange(1), default=None, help="Pictures a camera, spread over the clip's time.")
@click.option("--min-gate", type=float, default=None, metavar="G", help="Skip an expert where its gate is smaller.")
@backend_option
@click.option("--quiet", is_flag=True, help="No progress bar.")
@force_option
@scene_options
def render(
    model: Path, data: Path, out: Path, what: str | None, camera: str, kind: str, fps: float | None, **rest: Any
) -> None:  # fmt: skip
    """Render MODEL (an expert or a mixture) from the cameras of a capture.

    OUT receives one folder of PNGs, or one mp4, for every camera and kind of picture: the blend, each expert, each
    expert's gate as a heat-map, depth (near is bright).
    """
    opened, scene = open_model(model, device_of(rest["backend"])), open_scene(data, rest, decode=False)
    if rest["min_gate"] is not None and not is_mixture(model):
        raise click.BadParameter("one expert alone has no gates; give a mixture.", param_hint="--min-gate")
    warn_if_other_clip(opened, scene)
    if camera == "test" and not scene.test:
        raise click.UsageError("--camera test: no camera is held out (--test none); give train, spiral or names.")
    how = {"min_gate": rest["min_gate"], "backend": rest["backend"]}
    kinds = (what or ("mixture" if is_mixture(model) else "experts")).split(",")
    for name, shots in shots_of(scene, camera, rest["count"]).items():
        sinks = _Sinks(out / name, kind, fps or scene.fps, rest["force"], rest["quiet"])
        written = _write(opened, scene, shots, kinds, sinks, how)
        click.echo(f"{out / name}: {len(shots)} frames of {', '.join(written)}")


def shots_of(scene: Scene, camera: str, count: int | None) -> dict[str, list[tuple[Camera, float]]]:
    """Cameras and times to render, by the name of the camera or path."""
    if camera == "spiral":
        return {"spiral": _spiral(scene, count or max(scene.n_frames, SPIRAL_FRAMES))}
    chosen = {"test": scene.test, "train": scene.train}.get(camera)
    times = [i / (count or scene.n_frames) for i in range(count or scene.n_frames)]
    indices = cameras_named(scene, camera) if chosen is None else chosen
    return {scene.camera_names[i]: [(scene.cameras[i], t) for t in times] for i in indices or ()}


def _spiral(scene: Scene, count: int) -> list[tuple[Camera, float]]:
    from moegs.render.paths import central, spiral

    rig = [scene.cameras[i] for i in scene.train]
    middle = rig[central(rig)]
    z = (scene.cloud.points.to(middle.viewmat) @ middle.viewmat[2, :3]) + middle.viewmat[2, 3]
    focus = float(z[z > middle.near].median()) if bool((z > middle.near).any()) else sum(scene.bounds) / 2
    return [(camera, i / count) for i, camera in enumerate(spiral(rig, count, focus=focus))]


@dataclass(frozen=True)
class _Sinks:
    """Where pictures of one camera go: a folder of PNGs or an mp4 for each kind of picture."""

    base: Path
    kind: str
    fps: float
    force: bool
    quiet: bool

    def open(self, name: str) -> AbstractContextManager[Any]:
        from moegs.report import open_movie, open_pngs

        path = self.base / (name if self.kind == "png" else f"{name}.mp4")
        refuse_to_replace(path, self.force)
        if self.kind == "mp4":
            return open_movie(path, self.fps)
        return _replaced_pngs(path) if path.exists() else open_pngs(path)


@contextmanager
def _replaced_pngs(folder: Path) -> Iterator[Any]:
    """As ``open_pngs``, for a folder of former pictures: they stay until all new ones are written, then they go."""
    from moegs.report import open_pngs

    with TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as beside:
        with open_pngs(beside) as add:
            yield add
        new = {picture.name for picture in Path(beside).iterdir()}
        for name in new:
            os.replace(Path(beside) / name, folder / name)
    for picture in folder.iterdir():
        if _NUMBERED.fullmatch(picture.name) and picture.name not in new:
            picture.unlink()


def _write(
    model: Any, scene: Scene, shots: list[tuple[Camera, float]], kinds: list[str], sinks: _Sinks, how: dict[str, Any]
) -> list[str]:
    """Render the shots once and feed every kind of picture to its own folder or video; returns their names."""
    from moegs.progress import progress_bar
    from moegs.report import layers
    from moegs.train import freed_memory_kept

    opened: dict[str, Any] = {}
    with freed_memory_kept(), progress_bar(sinks.base.name, len(shots), not sinks.quiet) as advance, ExitStack() as stack:
        for camera, t in shots:
            for name, picture in layers(model, camera, t, kinds, bounds=scene.bounds, **how).items():
                if name not in opened:
                    opened[name] = stack.enter_context(sinks.open(name))
                opened[name](picture)
            advance()
    return list(opened)
