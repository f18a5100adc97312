"""The small networks that move Gaussians, and the sum of their output with the raw canonical tensors.

A network is a trunk of linear layers with one head per raw field. Under a prefix (``mlp.``, ``mlp.coarse.``…) its
tensors are ``trunk.<i>.weight|bias`` and ``<head>.<i>.weight|bias`` in ``torch.nn.Linear`` layout. Heads begin with a
ReLU and have one or two layers. How many layers there are is read from the names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from moegs.deform._fields import fields_of, harmonics, need, schedules
from moegs.deform.prior import Schedule
from moegs.errors import ConfigError
from moegs.gaussians.container import Gaussians
from moegs.gaussians.params import Params
from moegs.gaussians.quaternions import normalize

HEADS = ("means", "scales", "quats", "opacities", "sh")
_SIZES = {"means": 3, "scales": 3, "quats": 4, "opacities": 1}

Raw = dict[str, Tensor]


class CanonicalRates(Protocol):
    """A prior that names the learning rates of its canonical tensors."""

    @property
    def lr_means(self) -> float: ...
    @property
    def lr_means_final(self) -> float: ...
    @property
    def lr_quats(self) -> float: ...
    @property
    def lr_scales(self) -> float: ...
    @property
    def lr_opacities(self) -> float: ...
    @property
    def lr_sh(self) -> float: ...


def check_heads(prior: str, heads: Sequence[str]) -> None:
    """Refuse a head that is not a raw field."""
    if unknown := sorted(set(heads) - set(HEADS)):
        raise ConfigError(f"prior {prior!r}, option 'heads': expected some of {', '.join(HEADS)}, got {unknown[0]!r}.")


def init_network(
    prefix: str,
    inputs: int,
    *,
    width: int,
    layers: tuple[int, int],
    coefficients: int,
    zero_last: bool,
    generator: torch.Generator | None,
) -> Params:
    """A fresh network with all five heads.

    Args:
        prefix: what its tensor names begin with, trailing dot included.
        inputs: features that go in.
        width: hidden features.
        layers: linear layers in the trunk (at least one) and in each head (one or two).
        coefficients: spherical-harmonic coefficients that the colour head moves.
        zero_last: start the heads' last layer at zero, so that nothing moves at first.
        generator: where the Xavier-uniform weights come from.
    """
    trunk, head = max(layers[0], 1), layers[1]
    params: Params = {}
    for i in range(trunk):
        params |= _linear(f"{prefix}trunk.{i}", inputs if i == 0 else width, width, generator)
    for name in HEADS:
        size = _SIZES.get(name, 3 * coefficients)
        for i in range(head - 1):
            params |= _linear(f"{prefix}{name}.{i}", width, width, generator)
        params |= _linear(f"{prefix}{name}.{head - 1}", width, size, generator, zero_last)
    return params


def _linear(name: str, inputs: int, outputs: int, generator: torch.Generator | None, zero: bool = False) -> Params:
    if zero:  # not random numbers times zero: their signs would survive, and come from torch's global generator
        return {f"{name}.weight": torch.zeros(outputs, inputs), f"{name}.bias": torch.zeros(outputs)}
    weight = (2 * torch.rand(outputs, inputs, generator=generator) - 1) * math.sqrt(6 / (inputs + outputs))
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}


def run(
    params: Params, prefix: str, first: Float[Tensor, "n w"], heads: Sequence[str]
) -> dict[str, Float[Tensor, "n _"]]:
    """What the heads add to the raw fields, given the output of the trunk's first linear layer, which is overwritten."""
    hidden, layer = first, 1
    while f"{prefix}trunk.{layer}.weight" in params:
        hidden = linear(params, f"{prefix}trunk.{layer}", torch.relu_(hidden))
        layer += 1
    hidden = torch.relu_(hidden)
    deep = [h for h in heads if f"{prefix}{h}.1.weight" in params]
    shallow = [h for h in heads if h not in deep]
    return _shallow_heads(params, prefix, hidden, shallow) | _deep_heads(params, prefix, hidden, deep)


def linear(params: Params, name: str, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
    """One layer."""
    return F.linear(x, need(params, f"{name}.weight"), need(params, f"{name}.bias"))


def _shallow_heads(params: Params, prefix: str, hidden: Tensor, heads: Sequence[str]) -> Raw:
    """Single layers side by side in one product."""
    if not heads:
        return {}
    weights = [need(params, f"{prefix}{h}.0.weight") for h in heads]
    biases = [need(params, f"{prefix}{h}.0.bias") for h in heads]
    out = F.linear(hidden, torch.cat(weights), torch.cat(biases))
    return dict(zip(heads, out.split([len(b) for b in biases], dim=-1), strict=True))


def _deep_heads(params: Params, prefix: str, hidden: Tensor, heads: Sequence[str]) -> Raw:
    """First layers side by side in one product, then each head's own last layer."""
    inner = {h: torch.relu(x) for h, x in _shallow_heads(params, prefix, hidden, heads).items()}
    return {h: linear(params, f"{prefix}{h}.1", x) for h, x in inner.items()}


def trained(params: Params, prefix: str, heads: Sequence[str]) -> list[str]:
    """Names of a network's tensors, those of unused heads left out."""
    wanted = ("trunk", *heads)
    return [n for n in params if n.startswith(prefix) and n[len(prefix) :].split(".")[0] in wanted]


def canonical(params: Params) -> Raw:
    """The raw fields of the Gaussians at rest; colour as ``sh`` [n, k, 3] with the constant term first."""
    return {h: need(params, f"gaussian.{h}") for h in HEADS[:-1]} | {"sh": harmonics(fields_of(params))}


def canonical_rates(params: Params, rates: CanonicalRates, extent: float) -> dict[str, Schedule]:
    """Schedules of the canonical tensors."""
    fields = {
        "means": Schedule(rates.lr_means * extent, rates.lr_means_final * extent),
        "quats": Schedule(rates.lr_quats),
        "scales": Schedule(rates.lr_scales),
        "opacities": Schedule(rates.lr_opacities),
        "sh_dc": Schedule(rates.lr_sh),
        "sh_rest": Schedule(rates.lr_sh / 20),
    }
    return schedules(params, "", fields)


def add(raw: Raw, deltas: Mapping[str, Tensor], gains: Mapping[str, float | Tensor] | None = None) -> Raw:
    """Raw fields plus a network's output, each head's times its gain (one where none is given)."""
    moved = dict(raw)
    for head, delta in deltas.items():
        gain = 1.0 if gains is None else gains.get(head, 1.0)
        scaled = delta if isinstance(gain, float) and gain == 1.0 else delta * gain
        moved[head] = _add_colors(raw[head], scaled) if head == "sh" else raw[head] + scaled.reshape(raw[head].shape)
    return moved


def _add_colors(sh: Tensor, delta: Tensor) -> Tensor:
    """Add to the leading coefficients; those that either side lacks are left as they are."""
    delta = delta.unflatten(-1, (-1, 3))
    k = min(sh.shape[1], delta.shape[1])
    if k == sh.shape[1]:
        return sh + delta[:, :k]
    return torch.cat([sh[:, :k] + delta[:, :k], sh[:, k:]], dim=1)


def activate(raw: Raw) -> Gaussians:
    """Raw fields as Gaussians: exponential scales, unit quaternions, logistic opacities."""
    return Gaussians(
        means=raw["means"],
        quats=normalize(raw["quats"]),
        scales=raw["scales"].exp(),
        opacities=torch.sigmoid(raw["opacities"]),
        sh=raw["sh"],
    )
