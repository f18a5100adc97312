"""Golden cases: where they are, and comparing an import with what the original's own code computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from moegs.expert import Expert
from moegs.gaussians.container import Gaussians, covariances
from moegs.gaussians.quaternions import covariance
from tests.support import shared

LABELS = {"t0.000": 0.0, "t0.100": 0.1, "t0.333": 1 / 3, "t0.500": 0.5, "t0.770": 0.77, "t1.000": 1.0}
NETWORK, PLAIN = 1e-4, 1e-5  # absolute; the originals' own float32 noise is 1.6e-5 and 1.4e-6


def case(name: str) -> tuple[Path, dict[str, Tensor]]:
    """Checkpoint folder and expected tensors of a golden case."""
    folder = shared(f"golden/{name}")
    return folder / "checkpoint", load_file(folder / "expected.safetensors")


def assert_state(found: Gaussians, expected: dict[str, Tensor], prefix: str, atol: float) -> None:
    """Means, opacities and shape (and SH where the case has it) at one time."""
    close(found.means, expected[f"{prefix}/means"], atol, f"{prefix} means")
    close(found.opacities, expected[f"{prefix}/opacities"][:, 0], atol, f"{prefix} opacities")
    quats, scales = expected[f"{prefix}/rotations"], expected[f"{prefix}/scales"]
    if found.quats is not None:
        close(found.quats, quats, atol, f"{prefix} rotations")
        close(found.scales, scales, atol, f"{prefix} scales")
    close(covariances(found), covariance(quats, scales), atol, f"{prefix} covariances")
    if f"{prefix}/sh" in expected:
        close(found.sh, expected[f"{prefix}/sh"], atol, f"{prefix} sh")


def close(found: Tensor, expected: Tensor, atol: float, what: str) -> None:
    """Equal within an absolute tolerance, with the worst difference in the message."""
    assert found.shape == expected.shape, f"{what}: {list(found.shape)} for {list(expected.shape)}"
    worst = float((found.double() - expected.double()).abs().max())
    assert worst <= atol, f"{what}: off by {worst:.3g}, allowed {atol:g}"


def header(expert: Expert) -> dict[str, Any]:
    """All of an expert but its tensors."""
    return {name: value for name, value in vars(expert).items() if name != "params"}


def assert_same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """The same names, shapes, dtypes and bits."""
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name
