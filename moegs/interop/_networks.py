"""The deformation networks of 4DGaussians and E-D3DGS: linear layers in, linear layers out, in the originals' shape."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from moegs.errors import ConfigError, FormatError
from moegs.gaussians.params import Params
from moegs.interop._tensors import expect

SIZES = {"means": 3, "scales": 3, "quats": 4, "opacities": 1, "sh": 48}
KINDS = ("weight", "bias")
_LAYER = re.compile(r"([0-9]{1,3})\.(weight|bias)")

State = dict[str, Tensor]


def read_network(path: Path, state: State, trunk: str, heads: dict[str, str], inputs: int, ours: str) -> Params:
    """A trunk of linear layers 0, 2, 4… and one head of layers 1 and 3 for each raw field.

    Args:
        path: file that the state comes from, for messages.
        state: tensors by the original's names.
        trunk: what the trunk's names begin with.
        heads: what each head's names begin with, by raw field.
        inputs: features that go into the trunk.
        ours: what our names begin with.

    Raises:
        FormatError: a tensor is missing or has the wrong shape.
    """
    width = expect(path, f"{trunk}.0.weight", state.get(f"{trunk}.0.weight"), None, inputs).shape[0]
    indices = trunk_layers(state, trunk)
    if indices != list(range(0, 2 * len(indices), 2)):
        raise FormatError(f"{path}: {trunk!r}: expected linear layers 0, 2, 4…, got {indices}.")
    params: Params = {}
    for i in indices:
        params |= _linear(path, state, f"{trunk}.{i}", f"{ours}trunk.{i // 2}", (width, width if i else inputs))
    for head, name in heads.items():
        params |= _linear(path, state, f"{name}.1", f"{ours}{head}.0", (width, width))
        params |= _linear(path, state, f"{name}.3", f"{ours}{head}.1", (SIZES[head], width))
    return params


def trunk_layers(state: State, trunk: str) -> list[int]:
    """Numbers of the layers whose names begin with ``trunk``."""
    rests = [name[len(trunk) + 1 :] for name in state if name.startswith(f"{trunk}.")]
    return sorted({int(match[1]) for rest in rests if (match := _LAYER.fullmatch(rest))})


def _linear(path: Path, state: State, theirs: str, ours: str, shape: tuple[int, int]) -> Params:
    weight, bias = f"{theirs}.weight", f"{theirs}.bias"
    return {
        f"{ours}.weight": expect(path, weight, state.get(weight), *shape),
        f"{ours}.bias": expect(path, bias, state.get(bias), shape[0]),
    }


def write_network(params: Params, trunk: str, heads: dict[str, str], ours: str) -> State:
    """The inverse of :func:`read_network`, for networks in the originals' shape."""
    state: State = {}
    i = 0
    while f"{ours}trunk.{i}.weight" in params:
        state |= {f"{trunk}.{2 * i}.{kind}": params[f"{ours}trunk.{i}.{kind}"] for kind in KINDS}
        i += 1
    for head, name in heads.items():
        for layer in (0, 1):
            state |= {f"{name}.{1 + 2 * layer}.{kind}": params[f"{ours}{head}.{layer}.{kind}"] for kind in KINDS}
    return state


def in_original_shape(params: Params, prefixes: tuple[str, ...], project: str) -> Params:
    """An equal model whose networks have the originals' shape; an import passes through untouched.

    One-layer heads get an identity before them (what comes in is not negative), the colour head moves all 16
    coefficients, and ``mlp.unit`` moves into the position heads.

    Raises:
        ConfigError: the colour head moves more than the original can hold.
    """
    params = dict(params)
    unit = params.pop("mlp.unit", torch.ones(1))
    coefficients = params["gaussian.sh_rest"].shape[1] + 1
    for prefix in prefixes:
        for head in SIZES:
            if f"{prefix}{head}.1.weight" not in params:
                params |= _with_identity(params, f"{prefix}{head}")
        if float(unit) != 1.0:
            params |= {f"{prefix}means.1.{kind}": params[f"{prefix}means.1.{kind}"] * unit for kind in KINDS}
        missing = SIZES["sh"] - params[f"{prefix}sh.1.bias"].shape[0]
        if missing < 0:
            raise ConfigError(f"the colour head moves more than the {SIZES['sh']} numbers that {project} holds.")
        if missing:
            coefficients = 16
            params |= {f"{prefix}sh.1.weight": pad(params[f"{prefix}sh.1.weight"], (0, 0, 0, missing))}
            params |= {f"{prefix}sh.1.bias": pad(params[f"{prefix}sh.1.bias"], (0, missing))}
    rest = params["gaussian.sh_rest"]
    return params | {"gaussian.sh_rest": pad(rest, (0, 0, 0, coefficients - 1 - rest.shape[1]))}


def _with_identity(params: Params, head: str) -> Params:
    weight, bias = params[f"{head}.0.weight"], params[f"{head}.0.bias"]
    width = weight.shape[1]
    return {
        f"{head}.0.weight": torch.eye(width),
        f"{head}.0.bias": torch.zeros(width),
        f"{head}.1.weight": weight,
        f"{head}.1.bias": bias,
    }


def sh_degree(params: Params, name: str = "gaussian.sh_rest") -> int:
    """Degree of the harmonics of a tensor of higher coefficients."""
    return round((params[name].shape[1] + 1) ** 0.5) - 1
