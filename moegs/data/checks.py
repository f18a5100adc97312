"""Sanity checks of a capture before hours of training go into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from moegs.data import colmap
from moegs.data.capture import Capture
from moegs.data.findings import CaptureError, Finding, attempt
from moegs.data.frames import FrameSource
from moegs.data.layouts import layout_of
from moegs.progress import progress_bar
from moegs.render.camera import Camera

_ORDER = ("error", "warning", "info")
_FEW_IN_VIEW, _TOO_FEW_IN_VIEW = 0.3, 0.05  # fraction of the points that a camera should see
_POSE_TOLERANCE = 0.01  # of a camera's distance to the points; also radians


def check(path: str | Path, *, decode: bool = True, progress: bool = True) -> list[Finding]:
    """Look for everything that is wrong with a capture, worst first.

    Looks at poses (shape, finite, orthonormal, near < far), videos or images (all there, readable, as many frames and
    as large as they declare, in step), the held-out camera, and the sparse points (finite, coloured, before the
    cameras and inside their images, made with the same poses).

    Args:
        path: folder of the capture; nothing is written.
        decode: also decode every frame, which is the only way to find damage in the middle of a video.
        progress: show a bar when that takes more than two seconds.

    Returns:
        Findings that name file and field; the capture can be loaded if none of them is an error.
    """
    findings: list[Finding] = []
    layout = attempt(findings, partial(layout_of, path))
    if layout is not None:
        for step in layout.steps(Path(path)):
            attempt(findings, step)
        capture = attempt(findings, partial(layout.read, Path(path)))
        if capture is not None:
            attempt(findings, lambda: findings.extend(layout.inspect(capture)))
            findings.extend(_check_capture(capture))
            if decode:
                _decode_all(findings, capture, progress)
    return sorted(dict.fromkeys(findings), key=lambda finding: _ORDER.index(finding.severity))


def _check_capture(capture: Capture) -> Iterator[Finding]:
    yield _summary(capture)
    if capture.held_out not in capture.names:
        message = f"no {capture.held_out}, which is held out for test in this layout; name another when loading."
        yield Finding("warning", str(capture.path), "held-out camera", message)
    yield from _check_counts(capture)
    sizes = Counter((source.width, source.height) for source in capture.sources)
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        for source in capture.sources:
            if (source.width, source.height) != usual:
                message = f"{source.width}x{source.height}, most cameras have {usual[0]}x{usual[1]}."
                yield Finding("warning", str(source.path), "size", message)
    findings: list[Finding] = []
    for folder in capture.clouds.values():
        attempt(findings, lambda folder=folder: findings.extend(_check_model(capture, folder)))  # type: ignore[misc]
    yield from findings


def _summary(capture: Capture) -> Finding:
    first = capture.sources[0]
    message = (
        f"{len(capture.cameras)} cameras, {first.count} frames of {first.width}x{first.height} at {capture.fps:g} a "
        f"second, points of {len(capture.clouds)} frame(s)."
    )
    return Finding("info", str(capture.path), f"layout {capture.layout}", message)


def _check_counts(capture: Capture) -> Iterator[Finding]:
    usual = Counter(source.count for source in capture.sources).most_common(1)[0][0]
    for source in capture.sources:
        if source.count != usual:
            message = f"{source.count}, but most cameras have {usual}; copy it again, or load only the frames all have."
            yield Finding("error", str(source.path), "frames", message)


def _check_model(capture: Capture, folder: Path) -> Iterator[Finding]:
    points, file = colmap.read_points(folder), str(folder / "points3D")
    if not points.rgb.any():
        yield Finding("warning", file, "colours", "all points are black; Gaussians would start without colours.")
    seen = np.stack([in_view(camera, points.xyz) for camera in capture.cameras])
    for index, (name, row) in enumerate(zip(capture.names, seen, strict=True)):
        yield from _check_view(capture, folder, f"row {index} ({name})", float(row.mean()))
    alone = float((seen.sum(0) < 2).mean())
    if alone > 0.1:
        yield Finding("warning", file, "xyz", f"{alone:.0%} of the points lie in the view of fewer than two cameras.")
    if any((folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
        yield from _check_poses(capture, folder, points.xyz)


def _check_view(capture: Capture, folder: Path, row: str, fraction: float) -> Iterator[Finding]:
    message = f"{fraction:.0%} of the points of {folder} lie before this camera and inside its image"
    if fraction < _TOO_FEW_IN_VIEW:
        yield Finding("error", str(capture.calibration), row, f"{message}; poses and points do not belong together.")
    elif fraction < _FEW_IN_VIEW:
        yield Finding("warning", str(capture.calibration), row, f"{message}; are its pose and focal length right?")


def in_view(camera: Camera, points: Float64[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    """Which points lie beyond a camera's near plane and project inside its image."""
    view, k = camera.viewmat.double().numpy(), camera.K.double().numpy()
    local = points @ view[:3, :3].T + view[:3, 3]
    pixels = local @ k.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = pixels[:, :2] / pixels[:, 2:]
        inside = (pixels >= 0).all(1) & (pixels[:, 0] < camera.width) & (pixels[:, 1] < camera.height)
    return inside & (local[:, 2] > camera.near)


def _check_poses(capture: Capture, folder: Path, points: Float64[np.ndarray, "n 3"]) -> Iterator[Finding]:
    """Compare the poses that the sparse model was made with to those of the capture, by camera name."""
    images = {Path(image.name).stem: image for image in colmap.read_images(folder).values()}
    for index, (name, camera) in enumerate(zip(capture.names, capture.cameras, strict=True)):
        if name not in images:
            continue
        view, qvec, tvec = camera.viewmat.double().numpy(), images[name].qvec, images[name].tvec
        rotation = colmap.rotation(qvec)
        centre, other = -view[:3, :3].T @ view[:3, 3], -rotation.T @ tvec
        reach = float(np.median(np.linalg.norm(points - centre, axis=1)))
        turned = float(np.linalg.norm(rotation - view[:3, :3]) / np.sqrt(2))
        moved = float(np.linalg.norm(centre - other)) / max(reach, 1e-12)
        if not (turned < _POSE_TOLERANCE and moved < _POSE_TOLERANCE):
            message = (
                f"the sparse model in {folder} has another pose for it; were videos and rows put in another order?"
            )
            yield Finding("warning", str(capture.calibration), f"row {index} ({name})", message)


def _decode_all(findings: list[Finding], capture: Capture, progress: bool) -> None:
    with progress_bar("Checking frames", sum(source.count for source in capture.sources), progress) as advance:

        def run(source: FrameSource) -> None:
            for frame in source.frames(0, source.count):
                if frame.shape[:2] != (source.height, source.width):
                    found = f"{frame.shape[1]}x{frame.shape[0]}"
                    raise CaptureError(
                        source.path, "size", f"declares {source.width}x{source.height}, decodes to {found}."
                    )
                advance()

        for source in capture.sources:
            attempt(findings, partial(run, source))
