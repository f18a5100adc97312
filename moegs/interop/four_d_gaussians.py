"""4DGaussians (hustvl): ``point_cloud.ply`` and ``deformation.pth`` with HexPlane and network."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moegs.deform import check_planes
from moegs.deform.hexplane import HexPlane
from moegs.errors import FormatError, ShapeError
from moegs.expert import Expert
from moegs.gaussians.params import Params, count
from moegs.gaussians.vertices import write_vertices
from moegs.interop import _canonical as common
from moegs.interop import _networks as networks
from moegs.interop._cfg_args import Config
from moegs.interop._files import Run
from moegs.interop._tensors import expect, load_state, load_tensors

PROJECT, PRIOR = "4DGaussians", HexPlane.name
HEADS = {
    "means": ("pos", "no_dx"), "scales": ("scales", "no_ds"), "quats": ("rotations", "no_dr"),
    "opacities": ("opacity", "no_do"), "sh": ("shs", "no_dshs"),
}  # fmt: skip
NAMES = {head: f"deformation_net.{name}_deform" for head, (name, _) in HEADS.items()}
TRUNK, AABB, PLANES = "deformation_net.feature_out", "deformation_net.grid.aabb", "deformation_net.grid.grids."
_UNUSED = re.compile(r"(time|pos|rotation_scaling|opacity)_poc|timenet\.[02]\.(weight|bias)")
_PLANE = re.compile(re.escape(PLANES) + r"([0-9]{1,2})\.([0-5])")
_BUFFERS = {"time_poc": 4, "pos_poc": 10, "rotation_scaling_poc": 2, "opacity_poc": 2}
_SIDE_FILES = {"deformation_table": torch.bool, "deformation_accum": torch.float32}


def load(run: Run, *, router: bool = False, heads: tuple[str, ...] | None = None) -> Expert:
    """Read one model.

    Args:
        run: its files.
        router: the files come from stage 2 of MoE-GS, with router columns and flags that end in ``_2``.
        heads: raw fields that the network moves, some of ``means scales quats opacities sh``. Without it, ``no_dx`` and
            its likes in ``cfg_args`` decide; without that file all five move, as in the N3V recipe.

    Raises:
        FormatError: a file or tensor is missing, damaged or of the wrong shape.
    """
    columns = common.read_columns(run.ply, router)
    params = common.canonical_params(run.ply, columns, [])
    path = run.file("deformation.pth")
    state = load_state(path)
    params |= _planes(path, state) | _network(path, state) | _unused(state)
    _check_names(path, state, params)
    params |= _side_files(run, count(params))
    run.config.refuse(no_grid=False, static_mlp=False, empty_voxel=False, apply_rotation=False, grid_pe=0)
    prior = _prior(params, heads or _heads(run.config, "_2" if router else ""))
    return Expert(
        prior,
        params,
        options=common.raster_options(run.config, common.STOCK),
        background=common.WHITE if router else common.background(run.config, default=True),
        meta=common.meta(PROJECT, run),
    )


def _heads(config: Config, suffix: str) -> tuple[str, ...]:
    # their parser leaves opacity and colour still unless a recipe says otherwise; without cfg_args a recipe is assumed
    still = {"no_do": config.path is not None, "no_dshs": config.path is not None}
    off = {head: flag for head, (_, flag) in HEADS.items()}
    names = {f: f + suffix if f + suffix in config else f for f in off.values()}
    return tuple(h for h, flag in off.items() if not config.flag(names[flag], still.get(flag, False)))


def _prior(params: Params, heads: tuple[str, ...]) -> HexPlane:
    levels = [params[f"plane.{i}.0"].shape[3] for i in range(_n_levels(params))]
    space, height = params["plane.0.0"], params["plane.0.5"]
    return replace(
        HexPlane.n3v(),
        sh_degree=networks.sh_degree(params),
        channels=space.shape[1],
        resolution=(space.shape[3], space.shape[2], height.shape[3], height.shape[2]),
        levels=tuple(max(1, round(width / levels[0])) for width in levels),
        width=params["mlp.trunk.0.weight"].shape[0],
        trunk_layers=sum(name.startswith("mlp.trunk.") and name.endswith(".weight") for name in params),
        heads=heads,
    )


def _n_levels(params: Params) -> int:
    return sum(name.startswith("plane.") and name.endswith(".0") for name in params)


def _planes(path: Path, state: dict[str, Tensor]) -> Params:
    found = {(int(m[1]), int(m[2])): state[name] for name in state if (m := _PLANE.fullmatch(name))}
    levels = 1 + max((level for level, _ in found), default=0)
    if missing := [(i, p) for i in range(levels) for p in range(6) if (i, p) not in found]:
        raise FormatError(f"{path}: tensor '{PLANES}{missing[0][0]}.{missing[0][1]}' is missing.")
    try:
        check_planes([[found[i, p] for p in range(6)] for i in range(levels)], torch.zeros(1, 4))
    except ShapeError as error:
        raise FormatError(f"{path}: {error}") from None
    aabb = expect(path, AABB, state.get(AABB), 2, 3)
    if (aabb[0] == aabb[1]).any():
        raise FormatError(f"{path}: {AABB!r}: the box is flat; its two rows must differ in every axis.")
    return {"plane.aabb": aabb} | {f"plane.{i}.{p}": value for (i, p), value in sorted(found.items())}


def _network(path: Path, state: dict[str, Tensor]) -> Params:
    features = state[f"{PLANES}0.0"].shape[1] * (1 + max(int(m[1]) for n in state if (m := _PLANE.fullmatch(n))))
    return networks.read_network(path, state, TRUNK, NAMES, features, "mlp.")


def _unused(state: dict[str, Tensor]) -> Params:
    """Tensors that the original stores and never reads; kept so that an export is complete."""
    return {f"original.{name}": value for name, value in state.items() if _UNUSED.fullmatch(name)}


def _check_names(path: Path, state: dict[str, Tensor], params: Params) -> None:
    known = {AABB, *networks.write_network(params, TRUNK, NAMES, "mlp.")}
    left = sorted(n for n in state if n not in known and not _PLANE.fullmatch(n) and not _UNUSED.fullmatch(n))
    if left:
        raise FormatError(f"{path}: tensor {left[0]!r} is not known; expected those of 4DGaussians' deform_network.")


def _side_files(run: Run, n: int) -> Params:
    """Per-Gaussian bookkeeping beside the network, unused in rendering."""
    params = {}
    for name, dtype in _SIDE_FILES.items():
        if run.has(f"{name}.pth"):
            path = run.file(f"{name}.pth")
            value = load_tensors(path)
            if not isinstance(value, Tensor) or value.dtype != dtype or value.shape[:1] != (n,):
                raise FormatError(f"{path}: expected a tensor of {dtype} for {n} Gaussians.")
            params[f"gaussian.{name}"] = value.clone()
    return params


def export(expert: Expert, folder: str | Path) -> Path:
    """Write an expert with prior ``hexplane`` as 4DGaussians would; tensors of an import come back bit for bit.

    Experts trained here are rewritten into an equal model: the time axis is padded to the half that the original never
    reads, one-layer heads get an identity before them, and ``mlp.unit`` moves into the weights.

    Returns:
        The iteration's folder.

    Raises:
        ConfigError: the expert has another prior, or trained fewer colour coefficients than it moves.
    """
    folder = Path(folder)
    prior, params = _as_original(common.expect_prior(expert, HexPlane, PROJECT), expert.params)
    place = common.iteration_folder(expert, folder)
    fields = {k.removeprefix("gaussian."): v for k, v in params.items() if k.startswith("gaussian.")}
    write_vertices(place / "point_cloud.ply", common.canonical_columns(fields))
    common.save_torch(_state(params), place / "deformation.pth")
    for name in _SIDE_FILES:
        if name in fields:
            common.save_torch(fields[name].to(_SIDE_FILES[name]).cpu().clone(), place / f"{name}.pth")
    common.write_config(expert, folder, **_flags(expert, prior, params))
    return place


def _flags(expert: Expert, prior: HexPlane, params: Params) -> dict[str, Any]:
    depth = prior.trunk_layers
    known = expert.meta.get("cfg_args", {}).get("defor_depth")
    return {
        "sh_degree": networks.sh_degree(params),
        "white_background": expert.background == common.WHITE,
        "net_width": prior.width,
        "defor_depth": known if depth == 1 and known in (0, 1) else depth,
        "kplanes_config": {
            "grid_dimensions": 2,
            "input_coordinate_dim": 4,
            "output_coordinate_dim": prior.channels,
            "resolution": list(prior.resolution),
        },
        "multires": list(prior.levels),
        **{flag: head not in prior.heads for head, (_, flag) in HEADS.items()},
    }


def _state(params: Params) -> OrderedDict[str, Tensor]:
    net = {AABB: params["plane.aabb"]}
    for i in range(_n_levels(params)):
        net |= {f"{PLANES}{i}.{p}": params[f"plane.{i}.{p}"] for p in range(6)}
    net |= networks.write_network(params, TRUNK, NAMES, "mlp.")
    state = _defaults() | {k.removeprefix("original."): v for k, v in params.items() if k.startswith("original.")} | net
    return OrderedDict((name, value.detach().cpu().contiguous().clone()) for name, value in state.items())


def _defaults() -> dict[str, Tensor]:
    """The tensors that the original insists on and never reads."""
    powers = {name: 2.0 ** torch.arange(n, dtype=torch.float32) for name, n in _BUFFERS.items()}
    shapes = {
        "timenet.0.weight": (64, 9),
        "timenet.0.bias": (64,),
        "timenet.2.weight": (32, 64),
        "timenet.2.bias": (32,),
    }
    return powers | {name: torch.zeros(shape) for name, shape in shapes.items()}


def _as_original(prior: HexPlane, params: Params) -> tuple[HexPlane, Params]:
    """The same model with the original's architecture; an import passes through untouched."""
    params = dict(params)
    if prior.time_axis == "full":
        params |= {name: _padded(v) for name, v in params.items() if _is_time_plane(name)}
        prior = replace(prior, time_axis="upper", resolution=(*prior.resolution[:3], 2 * prior.resolution[3] - 1))
    return prior, networks.in_original_shape(params, ("mlp.",), PROJECT)


def _is_time_plane(name: str) -> bool:
    return bool(re.fullmatch(r"plane\.[0-9]+\.[245]", name))


def _padded(plane: Tensor) -> Tensor:
    """Knots k = R-1 … 2R-2 of an axis of 2R-1 lie in [0, 1] of [-1, 1]; those before repeat the first."""
    return torch.cat([plane[:, :, :1].expand(-1, -1, plane.shape[2] - 1, -1), plane], dim=2)
