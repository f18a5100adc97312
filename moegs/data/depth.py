"""True depth, where a capture ships it: ``depth/<camera>.npy``, camera z in world units, ``[frame, h, w]``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moegs.data.findings import CaptureError

FOLDER = "depth"


def has_depth(capture: str | Path) -> bool:
    """Whether a capture ships true depth."""
    return (Path(capture) / FOLDER).is_dir()


def read_depth(capture: str | Path, camera: str, frame: int) -> Float[Tensor, "h w"]:
    """True depth of one frame, counted from the first of the capture.

    Raises:
        CaptureError: the file is missing, is no such array, or has too few frames.
    """
    path = Path(capture) / FOLDER / f"{camera}.npy"
    try:
        depth = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise CaptureError(path, "depth", "no such file.") from None
    except (OSError, ValueError, EOFError) as error:
        raise CaptureError(path, "depth", f"not a readable array of depth maps ({error}).") from None
    if depth.ndim != 3 or not np.issubdtype(depth.dtype, np.floating):
        raise CaptureError(path, "depth", f"expected floats [frame, h, w], got {depth.dtype} {list(depth.shape)}.")
    if not 0 <= frame < len(depth):
        raise CaptureError(path, "depth", f"no frame {frame} among the {len(depth)} frames there.")
    return torch.from_numpy(depth[frame].astype(np.float32))
