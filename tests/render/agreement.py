"""Images and every gradient of a backend against its readable twin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moegs.gaussians import Gaussians
from moegs.render import Camera, RasterOptions, rasterize
from tests.render.scenes import leaves

IMAGE = 1e-4  # absolute
GRADIENT = 1e-3  # relative to the largest entry


def run(backend: str, gaussians: Gaussians, cam: Camera, dtype=torch.float32, features: int = 0, seed: int = 0, **kw):
    """Images and the gradients of a random linear loss over all of them, everything as float64."""
    n, options = len(gaussians), kw.get("options", RasterOptions())
    k = len(options) if isinstance(options, tuple) else 1
    g, inputs = leaves(gaussians.to(dtype))
    random = torch.Generator().manual_seed(seed)
    inputs["background"] = torch.rand(k, 3, generator=random).to(dtype)
    inputs["viewmat"] = cam.viewmat.to(dtype).clone()
    if features:
        inputs["features"] = torch.randn(n, features, generator=random).to(dtype)
    inputs["probe"] = torch.zeros(n, 2, dtype=dtype)
    for value in inputs.values():
        value.requires_grad_()
    background = inputs["background"] if "groups" in kw else inputs["background"][0]
    out = rasterize(
        g, replace(cam.to(dtype), viewmat=inputs["viewmat"]), features=inputs.get("features"), background=background,
        probe=inputs["probe"], backend=backend, **kw,
    )  # fmt: skip
    images = {name: v for name in ("color", "depth", "alpha", "features") if (v := getattr(out, name)) is not None}
    loss = sum((v * torch.randn(v.shape, generator=random).to(dtype)).sum() for v in images.values())
    loss.backward()
    grads = {name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in inputs.items()}
    if "covars" in grads:  # a covariance is symmetric: only the symmetric part of its gradient means anything
        grads["covars"] = (grads["covars"] + grads["covars"].mT) / 2
    images["radii"] = out.radii
    return {n: v.detach().double() for n, v in images.items()}, {n: v.double() for n, v in grads.items()}


def assert_agree(
    backend: str, gaussians: Gaussians, cam: Camera, *, image: float = IMAGE, whole_radii: bool = False, **kw
) -> None:
    """Images and gradients of a backend in float32 against the reference in float64.

    With ``whole_radii`` footprints may be those of whole pixels around what is drawn, which may touch an image that the
    Gaussian itself does not.
    """
    images, grads = run(backend, gaussians, cam, **kw)
    expected_images, expected_grads = run("reference", gaussians, cam, dtype=torch.float64, **kw)
    if whole_radii:
        found, drawn = images.pop("radii"), expected_images.pop("radii")
        assert bool(((found - drawn.ceil())[drawn > 0].abs() <= 1e-2).all())
    for name, expected in expected_images.items():
        slack = image * max(1.0, expected.abs().max().item())  # depths and features are not confined to [0, 1]
        torch.testing.assert_close(images[name], expected, atol=slack, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    for name, expected in expected_grads.items():
        slack = GRADIENT * max(expected.abs().max().item(), 1e-6)
        torch.testing.assert_close(grads[name], expected, atol=slack, rtol=0, msg=lambda m, name=name: f"d {name}: {m}")


GROUP_OPTIONS = (
    RasterOptions(),
    RasterOptions(eps2d=0.1, compensate=True),
    RasterOptions(near=1.5, far=3.0),
)


# Rows of groups mixed up, and lying together: the kernels draw these otherwise than those.
TAGS = {"mixed up": lambda n: torch.arange(n) * 5 % 3, "together": lambda n: torch.arange(n) * 3 // n}
every_order = pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
