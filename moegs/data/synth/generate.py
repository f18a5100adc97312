"""Writing the synthetic scene in the layout of Neural 3D Video."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from moegs.data import colmap, n3v, video
from moegs.data.synth._rig import rig
from moegs.data.synth._stage import Stage
from moegs.data.synth._tracer import Layer, Tracer
from moegs.errors import ConfigError
from moegs.progress import progress_bar
from moegs.render.camera import Camera

FPS = 30
_NOISE = 0.3  # standard deviation of the points and of their observations, pixels
_SAME_SURFACE = 0.01  # relative depth difference up to which a point counts as seen

README = """moegs synthetic scene: {cameras} cameras, {frames} frames at {fps} a second, {width}x{height}, seed {seed}

N3V layout. cam00 is in the middle of the rig and held out for test; the others stand on three arcs around it.

MOTION (all of it within the clip, whatever its length): smooth: a pendulum, a ball around a pillar. Articulated: an arm
with shoulder and elbow. Turning: a crate. Fast with kinks: a bouncing ball. Very fast and short: a thrown ball (time
0.45 to 0.70). Abrupt: a box that appears at 0.35, jumps at 0.60 and is gone at 0.85; a lamp that blinks eight times.
View-dependent: highlights on the ball on the table and on the pendulum.

FILES
poses_bounds.npy  LLFF: one row a camera, [R | t | height, width, focal] row by row (columns of R: down, right,
                  backwards), then near and far. No distortion, principal point in the centre of the image.
camNN.mp4         H.264 4:4:4, crf 12.
colmap_0/sparse/0 cameras.bin, images.bin, points3D.bin: surface points of frame 0 that at least two cameras see, with
                  {noise} px of noise, colours from the image, tracks in all cameras that see them.
depth/camNN.npy   true depth: camera z at the pixel centres in world units, float16 [frame, height, width].

World: x right, y down, z away from the rig. Time of a frame: frame / {frames}.
Cast by moegs itself from spheres and boxes with procedural textures; no third-party assets.
"""


@dataclass(frozen=True, eq=False)
class _FirstFrame:
    """What the sparse points are made from: a camera, and its picture and depth at frame 0."""

    camera: Camera
    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]


def synthesize(
    out: str | Path,
    *,
    cameras: int = 12,
    frames: int = 24,
    size: tuple[int, int] = (192, 144),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Cast the synthetic scene and write it in N3V layout, with true depth.

    The same arguments give the same pixels. The folder appears under its name when it is complete.

    Args:
        out: folder to make; may exist if it is empty.
        cameras: at least two; the first is the one to hold out.
        frames: length of the clip, at least one; the motion always fills it.
        size: width and height in pixels.
        seed: of the textures' grain, the rig's irregularities and the noise of the points.
        progress: show a bar when it takes more than two seconds.

    Returns:
        The folder.

    Raises:
        ConfigError: an argument has no meaning, or the folder holds something already.
        BackendError: PyAV cannot write H.264 here.
    """
    out = Path(out)
    _check_arguments(out, cameras, frames, size)
    generator = np.random.default_rng(seed)
    with _whole_folder(out) as folder, progress_bar("Casting rays", cameras * frames, progress) as advance:
        heads = []
        for index, camera in enumerate(rig(cameras, size, generator)):
            heads.append(_write_camera(folder, f"cam{index:02d}", camera, _Shoot(Stage(seed), frames, advance)))
        _write_calibration(folder, heads, generator)
        described = {"cameras": cameras, "frames": frames, "fps": FPS, "width": size[0], "height": size[1]}
        (folder / "README.txt").write_text(README.format(**described, seed=seed, noise=_NOISE), "utf-8")
    return out


@dataclass(frozen=True, eq=False)
class _Shoot:
    """What to cast, for how many frames, and whom to tell."""

    stage: Stage
    frames: int
    advance: Callable[[], None]


def _check_arguments(out: Path, cameras: int, frames: int, size: tuple[int, int]) -> None:
    if not 2 <= cameras <= 100:
        raise ConfigError(f"cameras: expected 2 to 100 (one is held out), got {cameras}.")
    if frames < 1:
        raise ConfigError(f"frames: expected at least 1, got {frames}.")
    if len(size) != 2 or min(size) < 16:
        raise ConfigError(f"size: expected width and height of at least 16 pixels, got {size}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} holds something already; remove it or name another folder.")


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place at the end, or vanishes if the block fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        folder.chmod(0o755)  # mkdtemp makes it private
        yield folder
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_camera(folder: Path, name: str, camera: Camera, shoot: _Shoot) -> _FirstFrame:
    depth = np.empty((shoot.frames, camera.height, camera.width), np.float16)
    first: list[_FirstFrame] = []

    def images() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for frame, layer in enumerate(Tracer(camera).frames(shoot.stage, shoot.frames)):
            depth[frame] = layer.centre_depth()
            if frame == 0:
                first.append(_first(camera, layer))
            yield layer.image()
            shoot.advance()

    video.write(folder / f"{name}.mp4", images(), FPS)
    (folder / "depth").mkdir(exist_ok=True)
    np.save(folder / "depth" / f"{name}.npy", depth, allow_pickle=False)
    return first[0]


def _first(camera: Camera, layer: Layer) -> _FirstFrame:
    return _FirstFrame(camera, layer.image(), layer.centre_depth().copy())


def _write_calibration(folder: Path, heads: Sequence[_FirstFrame], generator: np.random.Generator) -> None:
    rows = [n3v.pose_row(h.camera, 0.9 * float(h.depth.min()), 1.1 * float(h.depth.max())) for h in heads]
    np.save(folder / n3v.POSES, np.stack(rows), allow_pickle=False)
    exact, colors = _surface_points(heads, generator)
    projected = [_project(head.camera, exact) for head in heads]
    seen = np.stack([_sees(head, *p) for head, p in zip(heads, projected, strict=True)])
    keep = seen.sum(0) >= 2
    scale = np.stack([z / float(head.camera.K[0, 0]) for head, (_, z) in zip(heads, projected, strict=True)]).mean(0)
    noisy = exact + generator.normal(0, _NOISE, exact.shape) * scale[:, None]
    pixels = np.stack([p for p, _ in projected]) + generator.normal(0, _NOISE, (len(heads), len(exact), 2))
    model = folder / "colmap_0" / "sparse" / "0"
    _write_model(model, heads, (noisy[keep], colors[keep]), (pixels[:, keep], seen[:, keep]))


def _surface_points(
    heads: Sequence[_FirstFrame], generator: np.random.Generator
) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """World points and colours under random pixels of all cameras, one for every five pixels of one image."""
    points, colors = [], []
    for head in heads:
        height, width = head.depth.shape
        count = min(height * width, max(600, height * width // 5) // len(heads) + 1)
        row, column = np.divmod(generator.choice(height * width, count, replace=False), width)
        view, k = head.camera.viewmat.double().numpy(), head.camera.K.double().numpy()
        rays = np.stack([column + 0.5, row + 0.5, np.ones(count)], axis=1) @ np.linalg.inv(k).T
        points.append((rays * head.depth[row, column, None] - view[:3, 3]) @ view[:3, :3])
        colors.append(head.image[row, column])
    return np.concatenate(points), np.concatenate(colors)


def _project(
    camera: Camera, points: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
    view, k = camera.viewmat.double().numpy(), camera.K.double().numpy()
    local = points @ view[:3, :3].T + view[:3, 3]
    return (local @ k.T)[:, :2] / local[:, 2:], local[:, 2]


def _sees(head: _FirstFrame, pixels: Float[np.ndarray, "n 2"], z: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which points lie in the image with nothing in front of them."""
    height, width = head.depth.shape
    column, row = np.floor(pixels).astype(int).T
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    before = head.depth[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return inside & (np.abs(before - z) < _SAME_SURFACE * z)


def _write_model(
    folder: Path,
    heads: Sequence[_FirstFrame],
    cloud: tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]],
    observed: tuple[Float[np.ndarray, "c n 2"], Bool[np.ndarray, "c n"]],
) -> None:
    (points, colors), (pixels, seen) = cloud, observed
    ids = np.arange(1, len(points) + 1)
    cameras, images, residuals = {}, {}, np.zeros(seen.shape)
    for index, head in enumerate(heads):
        camera, view = head.camera, head.camera.viewmat.double().numpy()
        k = camera.K.double().numpy()
        params = (k[0, 0], k[1, 1], k[0, 2], k[1, 2])
        cameras[index + 1] = colmap.ColmapCamera("PINHOLE", camera.width, camera.height, params)
        visible = seen[index]
        qvec, name = colmap.quaternion(view[:3, :3]), f"cam{index:02d}.png"
        images[index + 1] = colmap.ColmapImage(name, index + 1, qvec, view[:3, 3], pixels[index, visible], ids[visible])
        residuals[index] = np.linalg.norm(_project(camera, points)[0] - pixels[index], axis=1)
    errors = (residuals * seen).sum(0) / seen.sum(0)
    colmap.write_model(folder, cameras, images, colmap.ColmapPoints(ids, points, colors, errors))
