"""A capture ready to train on: cameras, frames in random order, points, and who is held out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.data import n3v, technicolor
from moegs.data.capture import Capture, read_cloud
from moegs.data.findings import CaptureError
from moegs.data.frames import Clip, Frames, Undecoded, store
from moegs.data.layouts import layout_of
from moegs.errors import ConfigError
from moegs.gaussians.cloud import PointCloud
from moegs.render.camera import Camera

NARROW = 0.3  # of the distance to the points: a rig of less extent says little of how large things are
ONE_PLACE = 1e-6  # cameras less apart than that are in one place

CameraChoice = str | int | Sequence[str | int]


@dataclass(frozen=True, eq=False)
class View:
    """One picture: a camera, the moment, and what it saw.

    Attributes:
        camera: calibrated for the size of ``image``.
        time: clip-normalised, ``frame / n_frames``.
        image: RGB in [0, 1], float32, ``[h, w, 3]``.
        camera_index: index into the scene's cameras.
        frame: zero-based frame of the loaded range.
    """

    camera: Camera
    time: float
    image: Float[Tensor, "h w 3"]
    camera_index: int
    frame: int

    def to(self, device: torch.device | str) -> View:
        """The same on a device."""
        return replace(self, camera=self.camera.to(device), image=self.image.to(device))


@dataclass(frozen=True, eq=False)
class Scene:
    """A multi-view clip. The world is the one of the dataset's own files, unscaled and unturned.

    Attributes:
        name: name of the capture's folder.
        layout: ``n3v`` or ``technicolor``.
        cameras: calibrated for the loaded size, world→camera, OpenCV axes.
        camera_names: one a camera.
        train: indices of the training cameras.
        test: indices of the held-out cameras.
        n_frames: frames loaded, the same for every camera.
        fps: frames a second.
        cloud: surface points of the first frame, or of several frames with times.
        frames: the pixels.
        extent: what learning rates of positions and sizes of Gaussians are measured by (world units): 1.1 × the largest
            distance of a training camera from the mean of them, as in the originals, or 0.3 × the median distance of the
            points from the cameras where that is more, as in rigs that are narrow for what they see.
        bounds: nearest and farthest depth over all cameras (world units), as the capture gives them.
        start: which frame of the capture is frame 0 here.
    """

    name: str
    layout: str
    cameras: tuple[Camera, ...]
    camera_names: tuple[str, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    n_frames: int
    fps: float
    cloud: PointCloud
    frames: Frames
    extent: float
    bounds: tuple[float, float]
    start: int = 0

    def __repr__(self) -> str:
        held_out = ", ".join(self.camera_names[i] for i in self.test) or "none"
        size = "x".join(map(str, (self.cameras[0].width, self.cameras[0].height)))
        return (
            f"Scene({self.name}: {len(self.cameras)} cameras, {size}, {held_out} held out; "
            f"{self.n_frames} frames at {self.fps:g} a second; {len(self.cloud):,} points)"
        )

    @property
    def spread(self) -> float:
        """1.1 × the largest distance of a training camera from the mean of them, or the extent for one camera alone."""
        spread = _spread([self.cameras[i] for i in self.train])
        return self.extent if spread <= ONE_PLACE else spread

    def time(self, frame: int) -> float:
        """Clip-normalised time of a frame, in [0, 1)."""
        return frame / self.n_frames

    def image(self, camera: int, frame: int) -> Float[Tensor, "h w 3"]:
        """What a camera saw: RGB in [0, 1], float32."""
        return self.frames.image(camera, frame)

    def view(self, camera: int, frame: int) -> View:
        """Camera, time and image together."""
        return View(self.cameras[camera], self.time(frame), self.image(camera, frame), camera, frame)

    def training_cameras(self, chosen: Iterable[int] | None = None, name: str = "cameras") -> tuple[int, ...]:
        """The cameras that are chosen, or all training cameras; ``name`` is what errors call the choice.

        Raises:
            ConfigError: there are none, or one of them is held out or not in the scene.
        """
        cameras = self.train if chosen is None else tuple(chosen)
        if not cameras:
            raise ConfigError(f"{name}: expected at least one training camera, got none.")
        if foreign := sorted(set(cameras) - set(self.train)):
            raise ConfigError(
                f"{name}: expected some of {list(self.train)}; camera {foreign[0]} is no training camera, and held-out "
                "cameras are for the test."
            )
        return cameras


def load_scene(
    path: str | Path,
    *,
    scale: float = 1.0,
    start: int = 0,
    frames: int | None = None,
    test: CameraChoice | None = None,
    cache_dir: str | Path | None = None,
    decode: bool = True,
    progress: bool = True,
) -> Scene:
    """Read a capture in any known layout.

    Args:
        path: its folder, which is only read.
        scale: factor on width and height, in (0, 1]; intrinsics follow the rounded size.
        start: first frame, counted from 0 whatever the files are numbered.
        frames: how many; all from ``start`` if None.
        test: names or indices of the cameras to hold out; cam00 for N3V and cam10 for Technicolor if None.
        cache_dir: where decoded frames are kept; ``$XDG_CACHE_HOME/moegs/frames`` if None.
        decode: False for cameras and points alone, where no picture is looked at: decoding takes time and space.
        progress: show a bar when decoding takes more than two seconds.

    Raises:
        ConfigError: an argument has no meaning for this capture.
        CaptureError: the capture is missing something or inconsistent (a DataError that names file and field).
        CaptureFormatError: a file is damaged (a FormatError that names file and field).
    """
    capture = layout_of(path).read(Path(path))
    clip = _clip(capture, scale, start, frames)
    held_out = _held_out(capture, test)
    cloud = read_cloud(capture.clouds, clip.start, clip.count)  # before the frames, which take longer to fail
    pictures = store(capture.sources, clip, cache_dir, progress) if decode else Undecoded()
    return _assemble(capture, clip, held_out, cloud, pictures)


def load_n3v(path: str | Path, **options) -> Scene:
    """As :func:`load_scene`, but insist on the N3V layout."""
    return _load_as(n3v.NAME, path, options)


def load_technicolor(path: str | Path, **options) -> Scene:
    """As :func:`load_scene`, but insist on the Technicolor layout."""
    return _load_as(technicolor.NAME, path, options)


def _load_as(name: str, path: str | Path, options: dict) -> Scene:
    if (found := layout_of(path).name) != name:
        raise CaptureError(path, "layout", f"expected {name}, got {found}.")
    return load_scene(path, **options)


def _assemble(capture: Capture, clip: Clip, test: tuple[int, ...], cloud: PointCloud, frames: Frames) -> Scene:
    pairs = zip(capture.cameras, capture.sources, strict=True)
    cameras = tuple(camera.resized(*clip.size(source)) for camera, source in pairs)
    train = tuple(index for index in range(len(cameras)) if index not in test)
    return Scene(
        name=capture.path.resolve().name,
        layout=capture.layout,
        cameras=cameras,
        camera_names=capture.names,
        train=train,
        test=test,
        n_frames=clip.count,
        fps=capture.fps,
        cloud=cloud,
        frames=frames,
        extent=_extent([cameras[index] for index in train], cloud),
        bounds=capture.bounds,
        start=clip.start,
    )


def _clip(capture: Capture, scale: float, start: int, frames: int | None) -> Clip:
    if not 0 < scale <= 1:
        raise ConfigError(f"scale: expected a factor in (0, 1], got {scale}.")
    if start < 0 or (frames is not None and frames < 1):
        raise ConfigError(
            f"frame range: expected start ≥ 0 and at least one frame, got start {start}, frames {frames}."
        )
    shortest = min(capture.sources, key=lambda source: source.count)
    longest = max(capture.sources, key=lambda source: source.count)
    if start + (frames or 1) > longest.count:
        raise ConfigError(
            f"frame range: start {start}, frames {frames} do not fit into the {longest.count} frames there."
        )
    wanted = longest.count if frames is None else start + frames
    if shortest.count < wanted:
        message = f"{shortest.name} has {shortest.count} frames, {longest.name} has {longest.count}; copy the short one"
        raise CaptureError(shortest.path, "frames", f"{message} again, or ask for frames={shortest.count - start}.")
    return Clip(start, wanted - start, scale)


def _held_out(capture: Capture, test: CameraChoice | None) -> tuple[int, ...]:
    if test is None:
        if capture.held_out not in capture.names:
            raise CaptureError(capture.path, "held-out camera", f"no {capture.held_out} here; name another with test=.")
        test = capture.held_out
    chosen = [test] if isinstance(test, str | int) else list(test)
    indices = tuple(sorted({_index(capture, camera) for camera in chosen}))
    if len(indices) == len(capture.names):
        raise ConfigError(f"test: all {len(indices)} cameras are held out, none is left to train on.")
    return indices


def _index(capture: Capture, camera: str | int) -> int:
    if isinstance(camera, int) and 0 <= camera < len(capture.names):
        return camera
    if camera in capture.names:
        return capture.names.index(camera)
    known = ", ".join(capture.names)
    raise ConfigError(f"test: no camera {camera!r}; expected an index below {len(capture.names)} or one of {known}.")


def _extent(cameras: Sequence[Camera], cloud: PointCloud) -> float:
    spread = _spread(cameras)
    apart = torch.cdist(_centres(cameras), cloud.points, compute_mode="donot_use_mm_for_euclid_dist")  # exact far away too
    away = float(apart.median())
    return max(spread, NARROW * away) if spread > ONE_PLACE else away  # one camera: the scene's own size has to do


def _spread(cameras: Sequence[Camera]) -> float:
    centres = _centres(cameras)
    return 1.1 * float((centres - centres.mean(0)).norm(dim=1).max())


def _centres(cameras: Sequence[Camera]) -> Float[Tensor, "c 3"]:
    return torch.stack([camera.centre for camera in cameras]).float()
