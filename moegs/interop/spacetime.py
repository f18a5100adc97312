"""SpacetimeGaussians: full models (nine features and a colour network) and lite ones (plain colours).

One model covers a chunk of the clip, by default 50 frames, and its time runs from 0 to 1 over the chunk.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moegs.deform.polynomial import Polynomial
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert
from moegs.gaussians import harmonics
from moegs.gaussians.params import Params
from moegs.gaussians.ply import columns_of, numbered, read_rest, rest_columns, rest_count, stack
from moegs.gaussians.vertices import expect_names, write_vertices
from moegs.interop import _canonical as common
from moegs.interop._chunks import chunk_folder, split_chunks
from moegs.interop._files import Run
from moegs.interop._tensors import expect, load_state

PROJECT, PRIOR = "SpacetimeGaussians", Polynomial.name
FULL, LITE, SH = "full", "lite", "sh"
_ACTIVATION = {"sandwich": "sigmoid", "sandwichnoact": "clamp"}
_FUNCTION = {activation: name for name, activation in _ACTIVATION.items()}
_SHARED = {"motion": ("motion", 9), "quats": ("rot", 4), "omega": ("omega", 4), "scales": ("scale", 3)}
_SINGLE = {"opacities": "opacity", "centers": "trbf_center", "log_widths": "trbf_scale"}


@dataclass(frozen=True)
class Chunk:
    """Which part of the clip a model covers: ``index`` of ``count`` equal parts."""

    index: int = 0
    count: int = 1


def load(run: Run, *, router: bool = False, chunk: tuple[int, int] = (0, 1), decoder: str | None = None) -> Expert:
    """Read one model.

    Args:
        run: its files.
        router: the files come from stage 2 of MoE-GS, with router columns (and usually spherical harmonics).
        chunk: (index, count) of this model's part of the clip; times of the expert then run over the whole clip.
            The default takes the chunk for the clip, and keeps every tensor as it is in the file.
        decoder: what follows the colour network of a full model, ``"sigmoid"`` (N3V) or ``"clamp"`` (Technicolor);
            without it ``rgbfunction`` of ``cfg_args`` decides, and sigmoid without that.

    Raises:
        FormatError: a file or tensor is missing, damaged or of the wrong shape.
        ConfigError: an option has no meaning.
    """
    part = _check_chunk(chunk)
    path = run.ply
    columns = common.read_columns(path, router)
    kind = _kind(path, columns)
    params = _motion(columns) | _colors(path, columns, kind)
    if kind == FULL:
        params |= _decoder(run)
    activation = _activation(run, decoder) if kind == FULL else "sigmoid"
    return Expert(
        _prior(params, kind, activation),
        _on_clip(params, part),
        options=common.raster_options(run.config, common.STOCK),
        background=common.background(run.config, default=False),
        decoder=activation if kind == FULL else None,
        meta=common.meta(PROJECT, run, kind=kind, chunk=[part.index, part.count]),
    )


def _prior(params: Params, kind: str, activation: str) -> Polynomial:
    degree = round((params["gaussian.sh_rest"].shape[1] + 1) ** 0.5) - 1 if kind != FULL else 0
    color = "features" if kind == FULL else "sh"
    return replace(Polynomial.n3v(), color=color, activation=activation, sh_degree=degree)


def _kind(path: Path, columns: common.Columns) -> str:
    dc, late = (sum(name.startswith(prefix) for name in columns) for prefix in ("f_dc_", "f_t_"))
    rest = rest_count(path, columns)
    if (dc, late, rest) == (6, 3, 0):
        kind = FULL
    elif (dc, late) == (3, 0):
        kind = SH if rest else LITE
    else:
        raise FormatError(f"{path}: expected 6 f_dc_* with 3 f_t_* (full) or 3 f_dc_* (lite), got {dc} with {late}.")
    expect_names(path, columns, _names(kind, rest))
    return kind


def _names(kind: str, rest: int) -> list[str]:
    """Properties in the order of the original writer."""
    names = ["x", "y", "z", "trbf_center", "trbf_scale", "nx", "ny", "nz", *numbered("motion", 9)]
    names += [*numbered("f_dc", 6 if kind == FULL else 3), *numbered("f_rest", rest), "opacity"]
    names += [*numbered("scale", 3), *numbered("rot", 4), *numbered("omega", 4)]
    return names + (numbered("f_t", 3) if kind == FULL else [])


def _motion(columns: common.Columns) -> Params:
    params = {"gaussian.means": stack(columns, "x", "y", "z")}
    params |= {f"gaussian.{ours}": stack(columns, *numbered(*theirs)) for ours, theirs in _SHARED.items()}
    return params | {f"gaussian.{ours}": stack(columns, name)[:, 0].contiguous() for ours, name in _SINGLE.items()}


def _colors(path: Path, columns: common.Columns, kind: str) -> Params:
    if kind == FULL:
        features = stack(columns, *numbered("f_dc", 6))
        return {"gaussian.features_dc": features, "gaussian.features_t": stack(columns, *numbered("f_t", 3))}
    dc, rest = stack(columns, *numbered("f_dc", 3)), read_rest(columns, "f_rest", rest_count(path, columns))
    if kind == SH:
        return {"gaussian.sh_dc": dc[:, None], "gaussian.sh_rest": rest}
    # lite models hold colours as they are; these are kept too, because the way through harmonics rounds
    return {"gaussian.sh_dc": harmonics.from_rgb(dc)[:, None], "gaussian.sh_rest": rest, "gaussian.rgb": dc}


def _decoder(run: Run) -> Params:
    path = run.file("point_cloud.pt")
    state = load_state(path)
    if extra := sorted(set(state) - {"mlp1.weight", "mlp2.weight"}):
        raise FormatError(f"{path}: tensor {extra[0]!r} is not known; expected mlp1.weight and mlp2.weight.")
    w1 = expect(path, "mlp1.weight", state.get("mlp1.weight"), 6, 12, 1, 1)
    w2 = expect(path, "mlp2.weight", state.get("mlp2.weight"), 3, 6, 1, 1)
    return {"decoder.w1": w1[:, :, 0, 0].contiguous(), "decoder.w2": w2[:, :, 0, 0].contiguous()}


def _activation(run: Run, decoder: str | None) -> str:
    if decoder is not None:
        return common.one_of("decoder", decoder, ("sigmoid", "clamp"))
    return _ACTIVATION[run.config.choice("rgbfunction", "sandwich", _ACTIVATION)]


def _check_chunk(chunk: tuple[int, int]) -> Chunk:
    if not isinstance(chunk, tuple | list) or len(chunk) != 2:
        raise ConfigError(f"option 'chunk': expected (index, count), got {chunk!r}.")
    count = common.whole("chunk", chunk[1])
    index = common.whole("chunk", chunk[0], least=0)
    if index >= count:
        raise ConfigError(f"option 'chunk': index {index} is not one of 0 to {count - 1}.")
    return Chunk(index, count)


def _on_clip(params: Params, chunk: Chunk) -> Params:
    """Tensors in clip time of tensors in chunk time: ``t_chunk = count t - index``."""
    if chunk.count == 1:
        return params
    n = float(chunk.count)
    return _stretched(params, n) | {"gaussian.centers": (params["gaussian.centers"] + chunk.index) / n}


def _on_chunk(params: Params, chunk: Chunk) -> Params:
    """The inverse of :func:`_on_clip`, up to rounding."""
    if chunk.count == 1:
        return params
    n = float(chunk.count)
    return _stretched(params, 1 / n) | {"gaussian.centers": params["gaussian.centers"] * n - chunk.index}


def _stretched(params: Params, n: float) -> Params:
    powers = torch.tensor([n] * 3 + [n**2] * 3 + [n**3] * 3)
    changed = {
        "gaussian.motion": params["gaussian.motion"] * powers,
        "gaussian.omega": params["gaussian.omega"] * n,
        "gaussian.log_widths": params["gaussian.log_widths"] - math.log(n),
    }
    if "gaussian.features_t" in params:
        changed["gaussian.features_t"] = params["gaussian.features_t"] * n
    return params | changed


def export(expert: Expert, folder: str | Path) -> Path:
    """Write an expert with prior ``polynomial`` as SpacetimeGaussians would; an import comes back bit for bit.

    Experts with features become full models. Plain colours (harmonics of degree 0) become lite ones. Harmonics of
    higher degree become what stage 2 of MoE-GS makes of this project (``f_rest`` columns), which the original does not
    read.

    An expert that was joined from models of parts of the clip becomes as many runs again, in folders ``0of2``, ``1of2``, …,
    which :func:`moegs.interop.load` joins again.

    Returns:
        The iteration's folder, or that of the runs.

    Raises:
        ConfigError: the expert has another prior, or was joined and a part has no Gaussians left.
    """
    folder = Path(folder)
    common.expect_prior(expert, Polynomial, PROJECT)
    parts = split_chunks(expert)
    if len(parts) > 1:
        for i, part in enumerate(parts):
            export(part, folder / chunk_folder(i, len(parts)))
        return folder
    params = _on_chunk(expert.params, Chunk(*expert.meta.get("chunk", (0, 1))))
    kind = _kind_of(expert)
    place = common.iteration_folder(expert, folder)
    columns = _columns(params, kind)
    rest = sum(name.startswith("f_rest_") for name in columns)
    write_vertices(place / "point_cloud.ply", {name: columns[name] for name in _names(kind, rest)})
    if kind == FULL:
        weights = {f"mlp{i}.weight": params[f"decoder.w{i}"].detach().cpu()[:, :, None, None].clone() for i in (1, 2)}
        common.save_torch(OrderedDict(weights), place / "point_cloud.pt")
    flags: dict[str, Any] = {"rgbfunction": _FUNCTION[expert.decoder]} if expert.decoder else {}
    common.write_config(expert, folder, white_background=expert.background == common.WHITE, **flags)
    return place


def _kind_of(expert: Expert) -> str:
    if "gaussian.features_dc" in expert.params:
        return FULL
    harmonic = expert.params["gaussian.sh_rest"].shape[1] or expert.meta.get("kind") == SH
    return SH if harmonic else LITE


def _columns(params: Params, kind: str) -> dict[str, np.ndarray]:
    columns = columns_of(params["gaussian.means"], "x", "y", "z")
    columns |= columns_of(torch.zeros_like(params["gaussian.means"]), "nx", "ny", "nz")
    for ours, theirs in _SHARED.items():
        columns |= columns_of(params[f"gaussian.{ours}"], *numbered(*theirs))
    for ours, name in _SINGLE.items():
        columns |= columns_of(params[f"gaussian.{ours}"][:, None], name)
    if kind == FULL:
        late = columns_of(params["gaussian.features_t"], *numbered("f_t", 3))
        return columns | late | columns_of(params["gaussian.features_dc"], *numbered("f_dc", 6))
    rgb = _rgb(params) if kind == LITE else params["gaussian.sh_dc"][:, 0]
    return columns | columns_of(rgb, *numbered("f_dc", 3)) | rest_columns(params["gaussian.sh_rest"], "f_rest")


def _rgb(params: Params) -> Tensor:
    """Colours of a lite model: the file's own where nothing has changed them since."""
    dc = params["gaussian.sh_dc"][:, 0]
    rgb = harmonics.to_rgb(dc)
    if "gaussian.rgb" not in params:
        return rgb
    kept = params["gaussian.rgb"]
    return torch.where(harmonics.from_rgb(kept) == dc, kept, rgb)
