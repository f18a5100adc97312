"""A mixture of MoE-GS stage 2 as one of ours."""

from __future__ import annotations

import torch

from moegs.interop.moegs_stage2 import ImportedMixture
from moegs.route.mixture import Mixture
from moegs.route.routers import RouterConfig, VolumePixelRouter


def to_mixture(imported: ImportedMixture, temperature: float = 1.0) -> Mixture:
    """The same experts and the same logits at every pixel, in our own mixture.

    Args:
        imported: what :func:`moegs.interop.load_mixture` gave.
        temperature: of the softmax. The authors train with ``imported.temperature`` and render with 1.
    """
    config = RouterConfig(
        hidden=tuple(len(imported.mlp[name]) for name in ("mlp1", "mlp2")),
        temperature=temperature,
        background=imported.background,
    )
    router = VolumePixelRouter([len(e) for e in imported.experts], config, generator=torch.Generator())
    rows = torch.cat(list(imported.weights))
    weights = {"base": rows[:, 0], "view": rows[:, 1:2], "time": rows[:, 2:3]}
    layers = {f"layers.{i}": imported.mlp[f"mlp{i + 1}"][None, :, :, None, None] for i in range(3)}
    router.load_state_dict(router.state_dict() | weights | layers)
    names = [name.lower() for name in imported.names]
    return Mixture(dict(zip(names, imported.experts, strict=True)), router)

