"""States that the original projects computed, and the small clouds that fresh priors are tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params
from tests.support import shared

TIMES = {"t0.000": 0.0, "t0.100": 0.1, "t0.333": 1 / 3, "t0.500": 0.5, "t0.770": 0.77, "t1.000": 1.0}


def expected(case: str) -> dict[str, Tensor]:
    """Everything the original computed in a case ``project/name``."""
    return load_file(shared(f"golden/{case}/expected.safetensors"))


def hyper(case: str) -> dict[str, Any]:
    """What a case's meta.json says."""
    return json.loads(Path(shared(f"golden/{case}/meta.json")).read_text())


def weights(case: str, iteration: int) -> dict[str, Tensor]:
    """State dict of the deformation network that a case saved."""
    path = shared(f"golden/{case}/checkpoint/point_cloud/iteration_{iteration}/deformation.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


def canonical(values: dict[str, Tensor]) -> Params:
    """Raw tensors that all projects share."""
    names = {"means": "xyz", "quats": "rotation", "scales": "scaling"}
    names |= {"sh_dc": "features_dc", "sh_rest": "features_rest"}
    params = {f"gaussian.{ours}": values[f"loaded/{theirs}"] for ours, theirs in names.items()}
    return params | {"gaussian.opacities": values["loaded/opacity"][:, 0]}


def check(gaussians: Gaussians, values: dict[str, Tensor], label: str, atol: float) -> None:
    """Compare with what the original handed to its rasteriser."""
    close = {"rtol": 1e-5, "atol": atol}
    torch.testing.assert_close(gaussians.means, values[f"{label}/means"], **close)
    torch.testing.assert_close(gaussians.quats, values[f"{label}/rotations"], **close)
    torch.testing.assert_close(gaussians.scales, values[f"{label}/scales"], **close)
    torch.testing.assert_close(gaussians.opacities, values[f"{label}/opacities"].reshape(-1), **close)
    if f"{label}/sh" in values:
        torch.testing.assert_close(gaussians.sh, values[f"{label}/sh"], **close)


def cloud(n: int, seed: int = 0) -> PointCloud:
    """A few coloured points."""
    generator = torch.Generator().manual_seed(seed)
    return PointCloud(torch.randn(n, 3, generator=generator), torch.rand(n, 3, generator=generator))


def randomised(params: Params, names: list[str], seed: int = 1, scale: float = 0.1) -> Params:
    """Float64 copies with noise on the named tensors, so that nothing is at a special place."""
    generator = torch.Generator().manual_seed(seed)
    return {
        k: v.double() + (scale * torch.randn(v.shape, generator=generator).double() if k in names else 0.0)
        for k, v in params.items()
    }
