"""A mixture of MoE-GS stage 2 as one of ours."""

from __future__ import annotations

import torch

from moegs.errors import ConfigError
from moegs.interop.moegs_stage2 import ImportedMixture
from moegs.route.mixture import Mixture
from moegs.route.routers import RouterConfig, VolumePixelRouter


def to_mixture(imported: ImportedMixture, temperature: float = 1.0) -> Mixture:
    """The same experts and the same logits at every pixel, in our own mixture.

    Args:
        imported: what :func:`moegs.interop.load_mixture` gave.
        temperature: of the softmax. The authors train with ``imported.temperature`` and render with 1.

    Raises:
        ConfigError: an expert covers only a part of the clip, which our mixtures do not know.
    """
    if partial := [n for n, span in zip(imported.names, imported.spans, strict=True) if span != (0, 1)]:
        raise ConfigError(f"expert {partial[0]!r} covers only a part of the clip; only whole ones can be mixed here.")
    config = RouterConfig(
        hidden=tuple(len(imported.mlp[name]) for name in ("mlp1", "mlp2")),
        temperature=temperature,
        background=imported.background,
    )
    router = VolumePixelRouter([len(e) for e in imported.experts], config)
    rows = torch.cat(list(imported.weights))
    weights = {"base": rows[:, 0], "view": rows[:, 1:2], "time": rows[:, 2:3]}
    layers = {f"layers.{i}": imported.mlp[f"mlp{i + 1}"][None, :, :, None, None] for i in range(3)}
    router.load_state_dict(router.state_dict() | weights | layers)
    names = [name.lower().replace("/", "-") for name in imported.names]
    return Mixture(dict(zip(names, imported.experts, strict=True)), router)

