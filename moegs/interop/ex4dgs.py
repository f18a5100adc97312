"""Ex4DGS: a static and a dynamic point cloud, and optionally the training checkpoint beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moegs.deform.interpolation import LINEAR, SPLINE, Interpolation
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert
from moegs.gaussians.params import Params
from moegs.gaussians.ply import columns_of, numbered, read_rest, rest_columns, rest_count, stack
from moegs.gaussians.vertices import expect_names, write_vertices
from moegs.interop import _canonical as common
from moegs.interop._cfg_args import Config
from moegs.interop._files import Run
from moegs.interop._tensors import expect, finite, load_tensors
from moegs.render.types import RasterOptions

PROJECT, PRIOR = "Ex4DGS", Interpolation.name
DYNAMIC = "dynamic_point_cloud.ply"
NEAR, FAR = 0.01, 300.0
TRAINED = "trained_duration"  # our own word in cfg_args; the original keeps this only in its checkpoints
_KEYFRAME = re.compile(r"motion_xyz_([0-9]{1,6})_0")
_POSITION = {"cube": "cubic", "linear": "linear"}
_STATIC: dict[str, tuple[int, tuple[int | None, ...]]] = {
    "means": (1, (3,)),
    "sh_dc": (2, (1, 3)),
    "sh_rest": (3, (None, 3)),
    "scales": (4, (3,)),
    "quats": (5, (4,)),
    "opacities": (6, (1,)),
    "displacements": (18, (3,)),
}
_MOVING: dict[str, tuple[int, tuple[int | None, ...]]] = {
    "keyframes": (23, (None, 3)),
    "sh_dc": (24, (1, 3)),
    "sh_rest": (25, (None, 3)),
    "scales": (26, (3,)),
    "opacities": (27, (1,)),
    "centers": (28, (2, 1)),
    "widths": (29, (2, 1)),
    "rotations": (30, (None, 4)),
}  # index into the checkpoint's tuple, and shape after the number of Gaussians


@dataclass(frozen=True)
class _Timing:
    """What a checkpoint knows of time and the point clouds do not: all in frames."""

    duration: int
    interval: int
    shift: int


def load(
    run: Run,
    *,
    router: bool = False,
    duration: int | None = None,
    n_frames: int | None = None,
    static_rotations: str = "normalised",
) -> Expert:
    """Read one model.

    Args:
        run: its files. Without point clouds, the checkpoint's own tensors are read.
        router: the files come from stage 2 of MoE-GS, with router columns; a checkpoint is then ignored, as there.
        duration: frames per displacement of the static Gaussians. Training ends with 313 (N3V) or 64 (Technicolor),
            which only the checkpoint records: without this option it is taken from there, and without a checkpoint it
            is ``duration`` of ``cfg_args``, as in the authors' own loader.
        n_frames: frames of the clip, by default ``duration`` of ``cfg_args``.
        static_rotations: ``"normalised"``, or ``"raw"`` for what the authors' CUDA kernel makes of static quaternions
            that are not of unit length (the Gaussians then carry covariances).

    Raises:
        FormatError: a file or tensor is missing, damaged or of the wrong shape.
        ConfigError: an option has no meaning.
    """
    raw = common.one_of("static_rotations", static_rotations, ("normalised", "raw")) == "raw"
    state = None if router or run.checkpoint is None else _state(run.checkpoint)
    timing = None if state is None or run.checkpoint is None else _timing(run.checkpoint, state)
    params = _from_plys(run, router) if run.folder else _from_state(run.checkpoint, state)
    prior = _prior(run.config, timing, duration, n_frames)
    _check_keyframes(run, params, prior)
    prior = replace(prior, normalise_static=prior.normalise_static and not raw, sh_degree=_degree(params))
    return Expert(
        prior,
        params,
        options=common.raster_options(run.config, _options(run.config)),
        background=common.drawn_over(run.config, common.WHITE),  # random in training; the authors' renders are on white
        meta=common.meta(PROJECT, run),
    )


def _options(config: Config) -> RasterOptions:
    near, far = config.number("near", NEAR), config.number("far", FAR)
    eps2d = config.number("kernel_size", 0.1)
    if not 0 < near < far or eps2d < 0:
        raise FormatError(f"{config.path}: expected 0 < near < far and kernel_size >= 0, got {near}, {far}, {eps2d}.")
    return RasterOptions(eps2d=float(eps2d), compensate=True, near=float(near), far=float(far))


def _prior(config: Config, timing: _Timing | None, duration: int | None, n_frames: int | None) -> Interpolation:
    config.choice("rot_interp_type", "slerp", ("slerp",))
    position = _POSITION[config.choice("interp_type", "cube", _POSITION)]
    interval = timing.interval if timing else config.count("time_interval", 10)
    lead = interval if position == "cubic" else 0
    pad = timing.shift - lead if timing else config.count("time_pad", 2)
    trained = timing.duration if timing else config.count(TRAINED, 0)
    known = config.count("duration", -1)
    if known < 1:
        known = max(trained - pad - lead - 1, 1) if trained else 300
    frames = known if n_frames is None else common.whole("n_frames", n_frames)
    span = trained if duration is None else common.whole("duration", duration)
    try:
        return replace(
            Interpolation.n3v(),
            n_frames=frames,
            interval=interval,
            pad=pad,
            trained_duration=0 if span == frames else span,
            position=position,
            var_pad=float(config.number("var_pad", 3.0)),
            opacity_window=config.choice("opacity_window", "signed_min", ("nearest", "signed_min")),
            shortest_arc=config.flag("shortest_arc", False),
            normalise_static=config.flag("normalise_static", True),
        )
    except ConfigError as error:
        raise FormatError(f"{config.path or 'checkpoint'}: {error}") from None


def _check_keyframes(run: Run, params: Params, prior: Interpolation) -> None:
    keyframes = params.get(f"gaussian.{SPLINE}.keyframes")
    if keyframes is None:
        return
    last = int(prior.tau((prior.n_frames - 1) / prior.n_frames) + 1e-6)
    need = last + (3 if prior.position == "cubic" else 2)
    if keyframes.shape[1] < need:
        where = run.folder / DYNAMIC if run.folder else run.checkpoint
        clip = f"{prior.n_frames} frames with a key-frame every {prior.interval} and {prior.shift} before the first"
        raise FormatError(f"{where}: {keyframes.shape[1]} key-frames are too few for {clip}; expected {need}.")


def _degree(params: Params) -> int:
    rest = max(value.shape[1] for name, value in params.items() if name.endswith("sh_rest"))
    return round((rest + 1) ** 0.5) - 1


def _from_plys(run: Run, router: bool) -> Params:
    columns = common.read_columns(run.ply, router)
    params = common.canonical_params(run.ply, columns, numbered("xyz_disp", 3), LINEAR)
    params[f"gaussian.{LINEAR}.displacements"] = stack(columns, *numbered("xyz_disp", 3))
    return params | (_dynamic(run.file(DYNAMIC), router) if run.has(DYNAMIC) else {})


def _dynamic(path: Path, router: bool) -> Params:
    columns = common.read_columns(path, router, prefix="motion_")
    frames = sum(_KEYFRAME.fullmatch(name) is not None for name in columns)
    rest = rest_count(path, columns, "motion_f_rest")
    expect_names(path, columns, _dynamic_names(frames, rest))
    if frames < 2:
        raise FormatError(f"{path}: expected at least two key-frames motion_xyz_*, got {frames}.")
    fields = {
        "keyframes": stack(columns, *_keyframe_names("motion_xyz", frames, 3)).unflatten(1, (frames, 3)),
        "rotations": stack(columns, *_keyframe_names("motion_rot", frames, 4)).unflatten(1, (frames, 4)),
        "scales": stack(columns, *numbered("motion_scale", 3)),
        "opacities": stack(columns, "motion_opacity")[:, 0].contiguous(),
        "centers": stack(columns, *numbered("motion_opacity_c", 2)),
        "widths": stack(columns, *numbered("motion_opacity_v", 2)),
        "sh_dc": stack(columns, *numbered("motion_f_dc", 3))[:, None],
        "sh_rest": read_rest(columns, "motion_f_rest", rest),
    }
    return {f"gaussian.{SPLINE}.{name}": value for name, value in fields.items()}


def _dynamic_names(frames: int, rest: int) -> list[str]:
    names = [*_keyframe_names("motion_xyz", frames, 3), *numbered("motion_f_dc", 3), *numbered("motion_f_rest", rest)]
    names += [*numbered("motion_scale", 3), "motion_opacity", *numbered("motion_opacity_c", 2)]
    return [*names, *numbered("motion_opacity_v", 2), *_keyframe_names("motion_rot", frames, 4)]


def _keyframe_names(prefix: str, frames: int, size: int) -> list[str]:
    return [f"{prefix}_{k}_{j}" for k in range(frames) for j in range(size)]


def _state(path: Path) -> tuple[Any, ...]:
    content = load_tensors(path)
    state = content[0] if isinstance(content, tuple) and len(content) == 2 else None
    if not isinstance(state, tuple) or len(state) != 40:
        raise FormatError(f"{path}: expected Ex4DGS's tuple of 40 entries and an iteration.")
    return state


def _timing(path: Path, state: tuple[Any, ...]) -> _Timing:
    values = state[19:22]
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 31 for v in values) or not values[1]:
        raise FormatError(f"{path}: entries 19 to 21 (duration, interval, shift): expected frames, got {values}.")
    return _Timing(*values)


def _from_state(path: Path | None, state: tuple[Any, ...] | None) -> Params:
    if path is None or state is None:
        raise FormatError("Ex4DGS: neither point clouds nor a checkpoint were found.")
    populations = {LINEAR: _STATIC, SPLINE: _MOVING}
    params = {}
    for population, fields in populations.items():
        first = 1 if population == LINEAR else 23
        n = finite(path, f"entry {first}", state[first]).shape[0]
        for name, (index, shape) in fields.items():
            value = expect(path, f"entry {index}", state[index], n, *shape)
            params[f"gaussian.{population}.{name}"] = value[..., 0].contiguous() if shape[-1] == 1 else value
    return params


def export(expert: Expert, folder: str | Path) -> Path:
    """Write an expert with prior ``interpolation`` as Ex4DGS would; tensors of an import come back bit for bit.

    No training checkpoint is written; the duration that only it would hold goes into ``cfg_args`` as
    ``trained_duration``, as do ``opacity_window``, ``shortest_arc`` and ``normalise_static``: :func:`load` reads them, the
    original does not, see :func:`unlike`.

    Returns:
        The iteration's folder.

    Raises:
        ConfigError: the expert has another prior.
    """
    folder = Path(folder)
    prior = common.expect_prior(expert, Interpolation, PROJECT)
    place = common.iteration_folder(expert, folder)
    static, moving = (_population(expert.params, name) for name in (LINEAR, SPLINE))
    write_vertices(place / "point_cloud.ply", _static_columns(static or _nothing(moving)))
    if moving:
        write_vertices(place / DYNAMIC, _dynamic_columns(moving))
    usual = RasterOptions(expert.options.eps2d, True, expert.options.near or NEAR, expert.options.far or FAR)
    common.write_config(expert, folder, usual, **_flags(prior, usual))
    return place


def unlike(expert: Expert) -> tuple[str, ...]:
    """In what the original draws an expert otherwise: it compensates opacities, through a filter of any width."""
    original = {"low-pass filter": True, "opacity_window": "signed_min", "shortest_arc": False}
    names = ("opacity_window", "shortest_arc")
    ours = {"low-pass filter": expert.options.compensate} | {n: getattr(expert.prior, n, original[n]) for n in names}
    return tuple(name for name, value in original.items() if ours[name] != value)


def _flags(prior: Interpolation, options: RasterOptions) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _POSITION.items()}
    return {
        "sh_degree": prior.sh_degree,
        "interp_type": names[prior.position],
        "rot_interp_type": "slerp",
        "duration": prior.n_frames,
        TRAINED: prior.trained_duration or prior.n_frames,
        "time_interval": prior.interval,
        "time_pad": prior.pad,
        "var_pad": prior.var_pad,
        "opacity_window": prior.opacity_window,
        "shortest_arc": prior.shortest_arc,
        "normalise_static": prior.normalise_static,
        "kernel_size": options.eps2d,
        "near": options.near,
        "far": options.far,
    }


def _population(params: Params, population: str) -> dict[str, Tensor]:
    start = f"gaussian.{population}."
    return {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}


def _nothing(moving: dict[str, Tensor]) -> dict[str, Tensor]:
    """A static population without Gaussians."""
    sizes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh_dc": (1, 3), "displacements": (3,)}
    empty = {name: torch.zeros(0, *shape) for name, shape in sizes.items()}
    return empty | {"sh_rest": moving["sh_rest"][:0]}


def _static_columns(fields: dict[str, Tensor]) -> common.Columns:
    return common.canonical_columns(fields) | columns_of(fields["displacements"], *numbered("xyz_disp", 3))


def _dynamic_columns(fields: dict[str, Tensor]) -> common.Columns:
    frames = fields["keyframes"].shape[1]
    return {
        **columns_of(fields["keyframes"].flatten(1), *_keyframe_names("motion_xyz", frames, 3)),
        **columns_of(fields["sh_dc"][:, 0], *numbered("motion_f_dc", 3)),
        **rest_columns(fields["sh_rest"], "motion_f_rest"),
        **columns_of(fields["scales"], *numbered("motion_scale", 3)),
        **columns_of(fields["opacities"][:, None], "motion_opacity"),
        **columns_of(fields["centers"], *numbered("motion_opacity_c", 2)),
        **columns_of(fields["widths"], *numbered("motion_opacity_v", 2)),
        **columns_of(fields["rotations"].flatten(1), *_keyframe_names("motion_rot", frames, 4)),
    }
