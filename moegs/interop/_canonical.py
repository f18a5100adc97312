"""What the importers and exporters share: canonical tensors in and out of PLY columns, ``cfg_args``, backgrounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from moegs._expert_file import read_options
from moegs.deform.prior import Prior
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert
from moegs.gaussians.params import Params
from moegs.gaussians.ply import columns_of, inria_names, numbered, read_rest, rest_columns, rest_count, stack
from moegs.gaussians.vertices import expect_names, read_vertices
from moegs.interop._cfg_args import Config
from moegs.interop._files import Run
from moegs.interop._refilter import VIEWERS, drawn_alike
from moegs.io import atomic_write
from moegs.render.types import RasterOptions

Columns = dict[str, np.ndarray]
P = TypeVar("P", bound=Prior)

ROUTER_NAMES = ("f_t_0", "w_b_0", "w_b_1")  # what stage 2 of MoE-GS appends to an expert's file
STOCK = RasterOptions(near=0.2)  # the stock rasteriser, which drops Gaussians nearer than this
RASTER = "raster_options"  # in cfg_args, where an expert is drawn otherwise than its layout says; our own word
BEHIND = "background_color"  # likewise, where it is drawn over another colour than its layout says
Color = tuple[float, float, float]
WHITE: Color = (1.0, 1.0, 1.0)
BLACK: Color = (0.0, 0.0, 0.0)


def read_columns(path: Path, router: bool, prefix: str = "") -> Columns:
    """Columns of a PLY; with ``router``, those that stage 2 appends are required and left out."""
    columns = read_vertices(path)
    names = [prefix + name for name in ROUTER_NAMES] if router else []
    if missing := [name for name in names if name not in columns]:
        raise FormatError(f"{path}: property {missing[0]!r} is missing; stage 2 writes it for every expert.")
    return {name: value for name, value in columns.items() if name not in names}


def canonical_params(path: Path, columns: Columns, extra: list[str], population: str = "") -> Params:
    """The raw tensors of an INRIA layout that has exactly ``extra`` further columns."""
    rest = rest_count(path, columns)
    expect_names(path, columns, [*inria_names(rest), *extra])
    start = f"gaussian.{population}." if population else "gaussian."
    fields = {
        "means": stack(columns, "x", "y", "z"),
        "quats": stack(columns, *numbered("rot", 4)),
        "scales": stack(columns, *numbered("scale", 3)),
        "opacities": stack(columns, "opacity")[:, 0].contiguous(),
        "sh_dc": stack(columns, *numbered("f_dc", 3))[:, None],
        "sh_rest": read_rest(columns, "f_rest", rest),
    }
    return {start + name: value for name, value in fields.items()}


def canonical_columns(fields: Mapping[str, Tensor]) -> Columns:
    """INRIA columns, in the original order, of the raw tensors of one population."""
    return {
        **columns_of(fields["means"], "x", "y", "z"),
        **columns_of(torch.zeros_like(fields["means"]), "nx", "ny", "nz"),
        **columns_of(fields["sh_dc"][:, 0], *numbered("f_dc", 3)),
        **rest_columns(fields["sh_rest"], "f_rest"),
        **columns_of(fields["opacities"][:, None], "opacity"),
        **columns_of(fields["scales"], *numbered("scale", 3)),
        **columns_of(fields["quats"], *numbered("rot", 4)),
    }


def background(config: Config, default: bool) -> Color:
    """White or black, as ``white_background`` says, unless an export by moegs says otherwise.

    Raises:
        FormatError: what they say has no meaning.
    """
    return drawn_over(config, WHITE if config.flag("white_background", default) else BLACK)


def drawn_over(config: Config, usual: Color) -> Color:
    """The colour behind an expert: as usual in its layout, unless an export by moegs says otherwise.

    Raises:
        FormatError: what it says is no colour.
    """
    found = config.values.get(BEHIND, usual)
    try:
        red, green, blue = map(float, found)
    except (TypeError, ValueError):
        red = green = blue = float("nan")
    if not all(0 <= c <= 1 for c in (red, green, blue)):
        raise FormatError(f"{config.path}: option {BEHIND!r}: expected three numbers in [0, 1], got {found!r}.")
    return red, green, blue


def raster_options(config: Config, usual: RasterOptions) -> RasterOptions:
    """How an expert is drawn: as usual in its layout, unless an export by moegs says otherwise.

    Raises:
        FormatError: what it says has no meaning.
    """
    found = config.values.get(RASTER)
    if found is None:
        return usual
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise FormatError(f"{config.path}: option {RASTER!r}: expected names and values in braces, got {found!r}.")
    return read_options(config.path or Path("cfg_args"), found)


def unlike_stock(expert: Expert) -> tuple[str, ...]:
    """In what projects with 3D Gaussian Splatting's rasteriser draw an expert otherwise."""
    return () if drawn_alike(expert.options, VIEWERS) else ("low-pass filter",)


def meta(project: str, run: Run, **more: Any) -> dict[str, Any]:
    """Provenance of an imported expert, JSON-ready."""
    plain = {key: value for key, value in run.config.values.items() if _is_json(value)}
    return {"source": project, "iteration": run.iteration, "cfg_args": plain, **more}


def iteration_folder(expert: Expert, folder: Path) -> Path:
    """Where an export puts its point cloud: ``point_cloud/iteration_N``."""
    return folder / "point_cloud" / f"iteration_{expert.meta.get('iteration') or 30000}"


def write_config(expert: Expert, folder: Path, usual: RasterOptions = STOCK, **values: Any) -> None:
    """Write ``cfg_args``: what the import found, ``values`` on top, and how the expert is drawn if not as usual. Atomic.

    A layout whose ``values`` do not say ``white_background`` is one that is always drawn over white.
    """
    merged = {**expert.meta.get("cfg_args", {}), **values}
    for ours in (RASTER, BEHIND):
        merged.pop(ours, None)
    if expert.options != usual:
        merged[RASTER] = asdict(expert.options)
    if expert.background != (WHITE if values.get("white_background", True) else BLACK):
        merged[BEHIND] = expert.background
    text = ", ".join(f"{key}={value!r}" for key, value in merged.items() if key.isidentifier())
    with atomic_write(folder / "cfg_args") as file:
        file.write(f"Namespace({text})".encode())


def save_torch(value: Any, path: Path) -> None:
    """``torch.save``, atomic."""
    with atomic_write(path) as file:
        torch.save(value, file)


def expect_prior(expert: Expert, kind: type[P], layout: str) -> P:
    """The prior of an expert that is to be written in a layout.

    Raises:
        ConfigError: it is of another kind.
    """
    if not isinstance(expert.prior, kind):
        raise ConfigError(f"the layout of {layout} holds experts with prior {kind.name!r}, not {expert.prior.name!r}.")
    return expert.prior


def one_of(option: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """A value that must be one of a few.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in choices:
        raise ConfigError(f"option {option!r}: expected {' or '.join(map(repr, choices))}, got {value!r}.")
    return value


def whole(option: str, value: Any, least: int = 1) -> int:
    """An integer option.

    Raises:
        ConfigError: it is no integer, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 31:
        raise ConfigError(f"option {option!r}: expected an integer of {least} or more, got {value!r}.")
    return value


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
