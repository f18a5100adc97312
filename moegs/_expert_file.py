"""What an expert's file must hold: a header whose fields mean something, and the tensors that its prior needs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moegs.deform import prior as priors
from moegs.deform.polynomial import LIVES
from moegs.errors import ConfigError, FormatError, MoegsError
from moegs.gaussians.params import Params, population_of, populations
from moegs.render.environment import ENVIRONMENT
from moegs.render.types import FOOTPRINTS, RasterOptions

DECODERS = {None: {}, "sigmoid": {"decoder.w1": (6, 12), "decoder.w2": (3, 6)}}
DECODERS["clamp"] = DECODERS["sigmoid"]
FEATURES = 9  # channels that a decoder reads
_SHAPES: dict[str, tuple[int | None, ...]] = {
    "means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh_dc": (1, 3), "sh_rest": (None, 3), "lives": (2,),
}  # fmt: skip
_TRIED = 3  # Gaussians of each population; one would hide some wrong shapes, because it broadcasts
_ADVICE = "the file was damaged or changed: make it again"


def read_header(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Prior, raster options, background, decoder and meta from a file's metadata.

    Raises:
        FormatError: a field is missing, of another type, or holds a value without meaning.
    """
    for name, kind in (("prior", str), ("config", dict), ("options", dict), ("background", list), ("meta", dict)):
        if not isinstance(header.get(name), kind):
            raise _wrong(path, name, kind.__name__, header.get(name))
    background, decoder = header["background"], header.get("decoder")
    if len(background) != 3 or not all(map(_is_number, background)):
        raise _wrong(path, "background", "three finite numbers", background)
    if decoder is not None and decoder not in ("sigmoid", "clamp"):
        raise _wrong(path, "decoder", "null, 'sigmoid' or 'clamp'", decoder)
    return {
        "prior": _prior(path, header), "options": read_options(path, header["options"]),
        "background": tuple(map(float, background)), "decoder": decoder, "meta": header["meta"],
    }  # fmt: skip


def check_params(path: Path, prior: priors.Prior, params: Params, decoder: str | None) -> None:
    """Hold tensors against what their prior computes with.

    Names, types and the shapes that all priors share are compared; what else the prior needs is found out by asking it
    for a few of the Gaussians.

    Raises:
        FormatError: a tensor is missing, of another type or of another shape.
    """
    for name, value in params.items():
        _check_tensor(path, name, value, params)
    for name, shape in DECODERS[decoder].items():
        if name not in params or tuple(params[name].shape) != shape:
            found = list(params[name].shape) if name in params else "nothing"
            wanted = f"expected {list(shape)} for the decoder"
            raise FormatError(f"{path}: tensor {name!r}: {wanted}, got {found}; {_ADVICE}.")
    if LIVES in params:
        _check_lives(path, params[LIVES])
    if ENVIRONMENT in params:
        _check_environment(path, params[ENVIRONMENT])
    _try(path, prior, params, decoder)


def _check_lives(path: Path, lives: Tensor) -> None:
    start, end = lives.unbind(-1)
    if not bool(((start >= 0) & (start < end) & (end <= 1)).all()):  # what is not a number is neither
        raise FormatError(f"{path}: tensor {LIVES!r}: expected 0 <= start < end <= 1 in every row; {_ADVICE}.")


def _check_environment(path: Path, picture: Tensor) -> None:
    shape = tuple(picture.shape)
    if len(shape) != 3 or shape[0] != 3 or 0 in shape or not picture.is_floating_point():
        found = f"{picture.dtype} of shape {list(shape)}"
        raise FormatError(f"{path}: tensor {ENVIRONMENT!r}: expected floats of shape [3, h, w], got {found}; {_ADVICE}.")


def _prior(path: Path, header: dict[str, Any]) -> priors.Prior:
    try:
        return priors.from_config(header["prior"], header["config"])
    except (MoegsError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise FormatError(f"{path}: metadata field 'prior' or 'config': {error}") from None


def read_options(path: Path, found: dict[str, Any]) -> RasterOptions:
    """Raster options from what a file says of them.

    Raises:
        FormatError: a field is unknown, of another type, or holds a value without meaning.
    """
    if unknown := sorted(set(found) - {f.name for f in fields(RasterOptions)}):
        raise FormatError(f"{path}: metadata field is unknown: 'options.{unknown[0]}'; update moegs to read it.")
    if not _is_number(found.get("eps2d", 0.3)) or found.get("eps2d", 0.3) < 0:
        raise _wrong(path, "options.eps2d", "a number of at least 0", found["eps2d"])
    if not isinstance(found.get("compensate", False), bool):
        raise _wrong(path, "options.compensate", "true or false", found["compensate"])
    if found.get("footprint", FOOTPRINTS[0]) not in FOOTPRINTS:
        raise _wrong(path, "options.footprint", " or ".join(FOOTPRINTS), found["footprint"])
    for name in ("near", "far"):
        if found.get(name) is not None and not _is_number(found[name]):
            raise _wrong(path, f"options.{name}", "null or a finite number", found[name])
    try:
        return RasterOptions(**found)
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from None


def _check_tensor(path: Path, name: str, value: Tensor, params: Params) -> None:
    population = population_of(name)
    if population is None:
        return
    model = params[next(n for n in sorted(params) if population_of(n) == population)]
    rows, field = model.shape[0] if model.ndim else 0, name.rpartition(".")[2]
    shape = (rows, *_SHAPES.get(field, value.shape[1:]))
    same = len(shape) == value.ndim and all(s in (None, v) for s, v in zip(shape, value.shape, strict=True))
    if not same or (field in _SHAPES and not value.is_floating_point()):
        wanted = ["k" if s is None else s for s in shape]
        raise FormatError(
            f"{path}: tensor {name!r}: expected{' floats,' * (field in _SHAPES)} shape {wanted}, got {value.dtype} of shape "
            f"{list(value.shape)}; {_ADVICE}."
        )


@torch.no_grad()
def _try(path: Path, prior: priors.Prior, params: Params, decoder: str | None) -> None:
    few = {k: v if population_of(k) is None else v[:_TRIED] for k, v in params.items()}
    try:
        expected = sum(populations(few).values())
        now = prior.deform(few, 0.5)
    except MemoryError:
        raise
    except Exception as error:  # whatever a prior makes of strange tensors, the caller hears about the file
        reason = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
        raise FormatError(
            f"{path}: its tensors do not fit prior {prior.name!r} as configured ({reason}); {_ADVICE}."
        ) from error
    if len(now) != expected or (decoder is not None and (now.features is None or now.features.shape[1] != FEATURES)):
        channels = 0 if now.features is None else now.features.shape[1]
        raise FormatError(
            f"{path}: expected {expected} Gaussians{f' with {FEATURES} features' * (decoder is not None)} from "
            f"{expected} rows, prior {prior.name!r} makes {len(now)} with {channels}; {_ADVICE}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _wrong(path: Path, field: str, expected: str, found: Any) -> FormatError:
    return FormatError(f"{path}: metadata field {field!r}: expected {expected}, got {str(found)[:60]!r}; {_ADVICE}.")
