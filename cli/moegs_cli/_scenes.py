"""What commands that read a capture have in common: its options and opening it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from moegs.data import Scene, View
    from moegs.train.views import ViewSample

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--scale", type=float, default=1.0, show_default=True, help="Factor on width and height, up to 1."),
    click.option("--start", type=int, default=0, show_default=True, help="First frame of the clip to use."),
    click.option("--frames", type=int, default=None, help="How many frames to use; all by default."),
    click.option(
        "--test", "test", default=None, help="Cameras to hold out, comma-separated, or none; by default the layout's."
    ),
    click.option(
        "--frame-cache", type=click.Path(file_okay=False, path_type=Path), default=None,
        help="Where decoded frames are kept; $XDG_CACHE_HOME/moegs/frames by default.",
    ),
)  # fmt: skip


def scene_options(command: F) -> F:
    """Add the options that :func:`open_scene` takes; they arrive as ``**clip``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def backend_option(command: F) -> F:
    """Add ``--backend``, which also says where models go: see :func:`device_of`."""
    backends = click.Choice(["auto", "native", "reference", "gsplat"])
    text = "Rasteriser; gsplat puts the model on the CUDA GPU, auto stays on the CPU."
    return click.option("--backend", type=backends, default="auto", show_default=True, help=text)(command)


def device_of(backend: str) -> str:
    """Where a model is to be for a backend.

    Raises:
        BackendError: it needs a GPU, and there is none or no gsplat.
    """
    if backend != "gsplat":
        return "cpu"
    from moegs.errors import BackendError
    from moegs.render import usable_device

    try:
        return usable_device("cuda")
    except BackendError as error:
        raise BackendError(f"--backend gsplat: {error} Its rasterisers are native and reference.") from None


def device_option(command: F) -> F:
    """Add ``--device``, for commands that train or measure; it arrives as it is to be used."""
    text = "Where models are: cpu, or cuda, which draws with gsplat."
    return click.option("--device", default="cpu", show_default=True, callback=_usable_device, help=text)(command)


def _usable_device(context: click.Context, option: click.Parameter, name: str) -> str:
    if name == "cpu":
        return name
    from moegs.render import usable_device

    return usable_device(name)


def open_scene(path: Path, clip: dict[str, Any], decode: bool = True) -> Scene:
    """Load a capture with the options of :func:`scene_options`, with its pictures or only for its cameras and points."""
    from moegs.data import load_scene

    test = clip["test"]
    held_out = None if test is None else [] if test == "none" else test.split(",")
    return load_scene(
        path, scale=clip["scale"], start=clip["start"], frames=clip["frames"], test=held_out,
        cache_dir=clip["frame_cache"], decode=decode,
    )  # fmt: skip


def open_scored(path: Path, clip: dict[str, Any]) -> Scene:
    """As :func:`open_scene`, for commands whose table is of the held-out cameras.

    Raises:
        ConfigError: none is held out.
    """
    from moegs.errors import ConfigError

    scene = open_scene(path, clip)
    if not scene.test:
        raise ConfigError("--test none: this command scores held-out cameras; name some, or leave --test out.")
    return scene


@dataclass(frozen=True)
class Watched:
    """Views to go through any number of times, each with a bar on stderr when it takes more than two seconds."""

    views: ViewSample
    title: str
    enabled: bool = True

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[View]:
        from moegs.progress import tracked

        yield from tracked(self.views, self.title, len(self.views), self.enabled)


def cameras_named(scene: Scene, names: str | None, option: str = "camera") -> tuple[int, ...] | None:
    """Indices of cameras from their names separated by commas; None for None.

    Raises:
        ConfigError: the scene has no camera of such a name.
    """
    from moegs.errors import ConfigError

    if names is None:
        return None
    for name in names.split(","):
        if name not in scene.camera_names:
            raise ConfigError(f"{option}: expected some of {', '.join(scene.camera_names)}, got {name!r}.")
    return tuple(scene.camera_names.index(name) for name in names.split(","))


def training_cameras_named(scene: Scene, names: str | None, option: str) -> tuple[int, ...] | None:
    """As :func:`cameras_named`, of training cameras only.

    Raises:
        ConfigError: the scene has no camera of such a name, or it is held out.
    """
    from moegs.errors import ConfigError

    chosen = cameras_named(scene, names, option)
    if foreign := [scene.camera_names[i] for i in chosen or () if i not in scene.train]:
        raise ConfigError(f"{option}: camera {foreign[0]} is held out for the test; name training cameras.")
    return chosen


def stacking_cameras(scene: Scene, text: str, option: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Training cameras for the experts and for the router, from how many the router gets or which.

    A number alone is always how many; they are spread over the rig. Names are separated by commas.

    Raises:
        ConfigError: a camera is unknown or held out, or none is left to the experts.
    """
    from moegs.errors import ConfigError
    from moegs.train.views import stacking_split

    if text.removeprefix("-").isdecimal():
        return stacking_split(scene, int(text))
    router = training_cameras_named(scene, text.removesuffix(","), option) or ()
    experts = tuple(i for i in scene.train if i not in router)
    if not experts:
        raise ConfigError(f"{option}: leaves the experts none of the {len(scene.train)} training cameras.")
    return experts, router
