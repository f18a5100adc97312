"""Telling from its files which project wrote a run."""

from __future__ import annotations

from pathlib import Path

from moegs.errors import FormatError
from moegs.gaussians.vertices import read_header
from moegs.interop._files import Run
from moegs.interop._tensors import load_tensors

STAGE2_FOLDERS = ("Ex4DGS", "E-D3DGS", "STG", "4DGaussians")


def is_stage2(path: str | Path) -> bool:
    """Whether a folder holds a mixture: several experts' folders side by side."""
    root = stage2_root(path)
    return sum(_is_part(root / name) for name in STAGE2_FOLDERS) > 1


def stage2_root(path: str | Path) -> Path:
    """Folder of a mixture, given that or its ``cfg_args``."""
    path = Path(path)
    return path.parent if path.is_file() else path


def has_router(run: Run) -> bool:
    """Whether an expert carries the columns that stage 2 appends."""
    return run.folder is not None and {"w_b_0", "w_b_1"} <= set(read_header(run.ply).names)


def _is_part(folder: Path) -> bool:
    return (folder / "point_cloud").is_dir() or (folder.name == "STG" and folder.is_dir())


def detect(run: Run) -> str:
    """Name of the format that a run is in.

    Raises:
        FormatError: it is none that can be read.
    """
    return _by_ply(run) if run.folder else _by_checkpoint(run.checkpoint or run.root)


def _by_ply(run: Run) -> str:
    names = set(read_header(run.ply).names)
    if run.has("dynamic_point_cloud.ply") or "xyz_disp_0" in names:
        return "ex4dgs"
    if "trbf_center" in names:
        return "spacetime"
    if any(name.startswith("embedding_") for name in names):
        return "e-d3dgs"
    if run.has("deformation.pth"):
        return "4dgaussians"
    raise FormatError(
        f"{run.ply}: a point cloud without motion, of no project known here; "
        "expected deformation.pth, dynamic_point_cloud.ply or properties such as trbf_center beside it."
    )


def _by_checkpoint(path: Path) -> str:
    content = load_tensors(path)
    state = content[0] if isinstance(content, tuple) and len(content) == 2 else None
    length = len(state) if isinstance(state, tuple) else 0
    if length in (12, 19):
        return "4dgs"
    if length == 40:
        return "ex4dgs"
    raise FormatError(
        f"{path}: expected a checkpoint of 4d-gaussian-splatting (19 entries) or Ex4DGS (40 entries), got {length}; "
        "for other projects give the folder with point_cloud.ply."
    )
