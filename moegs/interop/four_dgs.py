"""4d-gaussian-splatting (fudan-zvg): ``chkpnt*.pth``, a tuple of 19 entries and the iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moegs.deform.reformulation import Reformulation
from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert
from moegs.gaussians.params import Params, count
from moegs.interop import _canonical as common
from moegs.interop._files import Run
from moegs.interop._tensors import expect, finite, load_tensors
from moegs.render.environment import ENVIRONMENT
from moegs.render.types import FOOTPRINTS

PROJECT, PRIOR = "4d-gaussian-splatting", Reformulation.name
LENGTH = 19
CUTOFF = Reformulation.n3v().cutoff  # our own word in cfg_args where it is another
_FIELDS: dict[str, tuple[int, tuple[int, ...]]] = {
    "means": (1, (3,)),
    "sh_dc": (2, (1, 3)),
    "scales": (4, (3,)),
    "quats": (5, (4,)),
    "opacities": (6, (1,)),
    "times": (13, (1,)),
    "log_time_scales": (14, (1,)),
}
_REST, _RIGHT, _ROT_4D, _ENV_MAP, _DEGREE_T = 3, 15, 16, 17, 18
_GROUPS = ("xyz", "f_dc", "f_rest", "opacity", "scaling", "rotation", "t", "scaling_t", "rotation_r")
_SECONDS, _UNIT = (0.0, 10.0), (0.0, 1.0)
_UNIT_RANGE, _ENOUGH = (-0.25, 1.25), 8


def load(
    run: Run,
    *,
    time_duration: tuple[float, float] | None = None,
    flipped: bool = True,
    footprint: str | None = None,
    seen_at: str | None = None,
) -> Expert:
    """Read one model.

    Args:
        run: its files.
        time_duration: start and end of the clip in the unit of the Gaussians' times. The files do not hold it. By
            default 0 to 10 seconds, as in all N3V recipes; but 0 to 1, as in most D-NeRF recipes, when nearly all of at
            least eight Gaussians lie there. ``meta["time_duration"]`` says what was taken.
        flipped: order of the axes of the 4D rotation; False for checkpoints trained before September 2024.
        footprint: ``"4dgs"`` draws every footprint with a field of view of -1 rad, as their renderer does where a dataset
            gives focal lengths (N3V); ``"camera"`` with that of the camera. By default the former for clips of 10 seconds
            and the latter for others.
        seen_at: ``"rest"`` looks colours up from where Gaussians are at their own time, as their renderer does and as is
            the default; ``"now"`` from where they are.

    Raises:
        FormatError: the file is damaged, or a tensor is missing or of the wrong shape.
        ConfigError: an option has no meaning.
    """
    if run.checkpoint is None:
        raise FormatError(f"{run.root}: chkpntN.pth is missing; {PROJECT} keeps its Gaussians there.")
    path = run.checkpoint
    state, iteration = _read(path)
    params = _params(path, state)
    start, end = _duration(run, params["gaussian.times"], time_duration)
    if not isinstance(flipped, bool):
        raise ConfigError(f"option 'flipped': expected True or False, got {flipped!r}.")
    degree, degree_t = _degrees(path, state)
    prior = replace(
        Reformulation.n3v(),
        sh_degree=degree,
        sh_degree_t=degree_t,
        time_start=start,
        time_span=end - start,
        rot_4d=state[_ROT_4D],
        flipped=flipped,
        seen_at=_choice(run, "seen_at", seen_at, "rest", ("rest", "now")),
        prefilter_var=float(run.config.number("prefilter_var", -1.0)),
        cutoff=float(run.config.number("cutoff", CUTOFF)),
    )
    usual = "4dgs" if (start, end) == _SECONDS else "camera"
    more: dict[str, Any] = {"time_duration": [start, end], "active_degrees": [state[0], state[_DEGREE_T]]}
    more |= {"extent": float(state[12]) if isinstance(state[12], int | float) else 1.0}
    return Expert(
        prior,
        params,
        options=replace(
            common.raster_options(run.config, common.STOCK),
            footprint=_choice(run, "footprint", footprint, usual, FOOTPRINTS),
        ),
        background=common.BLACK if ENVIRONMENT in params else common.background(run.config, default=False),
        meta=common.meta(PROJECT, run, **more) | {"iteration": iteration},
    )


def _read(path: Path) -> tuple[tuple[Any, ...], int]:
    content = load_tensors(path)
    state, iteration = content if isinstance(content, tuple) and len(content) == 2 else (None, None)
    if not isinstance(state, tuple) or not isinstance(iteration, int):
        raise FormatError(f"{path}: expected a tuple of the model and its iteration.")
    if len(state) == 12:
        raise FormatError(f"{path}: a static model (gaussian_dim 3) without times; only gaussian_dim 4 can be read.")
    if len(state) != LENGTH:
        raise FormatError(f"{path}: expected {LENGTH} entries, got {len(state)}.")
    if not isinstance(state[_ROT_4D], bool) or not _is_count(state[0]) or not _is_count(state[_DEGREE_T]):
        raise FormatError(f"{path}: entries 0, 16 and 18: expected a degree, rot_4d and a degree, got other types.")
    return state, iteration


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _params(path: Path, state: tuple[Any, ...]) -> Params:
    n = expect(path, "entry 1 (xyz)", state[1], None, 3).shape[0]
    fields = {name: expect(path, f"entry {i} ({name})", state[i], n, *s) for name, (i, s) in _FIELDS.items()}
    params = {
        f"gaussian.{name}": v[:, 0].contiguous() if v.shape[1] == 1 and v.ndim == 2 else v for name, v in fields.items()
    }
    params["gaussian.sh_rest"] = expect(path, f"entry {_REST} (features_rest)", state[_REST], n, None, 3)
    if state[_ROT_4D]:
        params["gaussian.quats_right"] = expect(path, f"entry {_RIGHT} (rotation_r)", state[_RIGHT], n, 4)
    if isinstance(state[_ENV_MAP], Tensor) and state[_ENV_MAP].numel():
        picture = expect(path, f"entry {_ENV_MAP} (env_map)", state[_ENV_MAP], 3, None, None)
        params[ENVIRONMENT] = finite(path, f"entry {_ENV_MAP} (env_map)", picture)
    return params


def _degrees(path: Path, state: tuple[Any, ...]) -> tuple[int, int]:
    """Degrees in space and time that take part in rendering.

    48 coefficients are three blocks of 16; any other number holds one block, which may be followed by unused ones. The
    original adds its cosines only at the full degree 3.
    """
    channels = 1 + state[_REST].shape[1]
    degree = min(state[0], 3)
    if (degree + 1) ** 2 > channels:
        raise FormatError(f"{path}: entry 0: degree {degree} needs {(degree + 1) ** 2} coefficients, found {channels}.")
    return degree, min(state[_DEGREE_T], 2) if degree == 3 and channels == 48 else 0


def _choice(run: Run, option: str, given: str | None, usual: str, choices: tuple[str, ...]) -> str:
    """An option, or what :func:`export` has noted, or what is usual."""
    return run.config.choice(option, usual, choices) if given is None else common.one_of(option, given, choices)


def _duration(run: Run, times: Tensor, given: tuple[float, float] | None) -> tuple[float, float]:
    known = given if given is not None else run.config.values.get("time_duration")
    if known is None:
        low, high = _UNIT_RANGE
        inside = ((times > low) & (times < high)).float().mean() if len(times) >= _ENOUGH else torch.zeros(())
        return _UNIT if float(inside) > 0.95 else _SECONDS
    numbers = isinstance(known, tuple | list) and len(known) == 2 and all(isinstance(x, int | float) for x in known)
    if not numbers or not -1e9 < known[0] < known[1] < 1e9:
        wrong = f"'time_duration': expected (start, end) with start < end, got {known!r}."
        raise ConfigError(f"option {wrong}") if given is not None else FormatError(f"{run.config.path}: {wrong}")
    return float(known[0]), float(known[1])


def export(expert: Expert, folder: str | Path) -> Path:
    """Write an expert with prior ``reformulation`` as 4d-gaussian-splatting would: ``chkpntN.pth`` and ``cfg_args``.

    Tensors of an import come back bit for bit; the optimiser's state is not kept. ``cfg_args`` also gets
    ``time_duration``, ``footprint``, ``seen_at`` and ``cutoff``, which :func:`load` reads and the original does not.

    Returns:
        The checkpoint.

    Raises:
        ConfigError: the expert has another prior, or colours that the original cannot hold.
    """
    folder = Path(folder)
    prior = common.expect_prior(expert, Reformulation, PROJECT)
    params = {name: value.detach().cpu().float() for name, value in expert.params.items()}
    span = prior.time_span or float(params["time.span"])
    iteration = expert.meta.get("iteration") or 30000
    path = folder / f"chkpnt{iteration}.pth"
    common.save_torch((_tuple(expert, prior, params), iteration), path)
    duration = [prior.time_start, prior.time_start + span]
    flags = {"prefilter_var": prior.prefilter_var, "time_duration": duration}
    flags |= {"footprint": expert.options.footprint, "seen_at": prior.seen_at, "cutoff": prior.cutoff}
    usual = replace(common.STOCK, footprint=expert.options.footprint)
    common.write_config(expert, folder, usual, white_background=expert.background == common.WHITE, **flags)
    return path


def unlike(expert: Expert) -> tuple[str, ...]:
    """In what the original draws an expert otherwise."""
    other = () if getattr(expert.prior, "cutoff", CUTOFF) == CUTOFF else ("cutoff",)
    return (*common.unlike_stock(expert), *other)


def _tuple(expert: Expert, prior: Reformulation, params: Params) -> tuple[Any, ...]:
    n = count(params)
    learned: Callable[[Tensor], Tensor] = lambda value: torch.nn.Parameter(value.clone())  # noqa: E731
    rest, degrees = _colors(expert, prior, params["gaussian.sh_rest"])
    column = {name: params[f"gaussian.{name}"][:, None] for name in ("opacities", "times", "log_time_scales")}
    zeros = torch.zeros(n, 1)
    right = params["gaussian.quats_right"] if prior.rot_4d else torch.empty(0)
    groups = _GROUPS if prior.rot_4d else _GROUPS[:-1]
    return (
        degrees[0],
        learned(params["gaussian.means"]),
        learned(params["gaussian.sh_dc"]),
        learned(rest),
        learned(params["gaussian.scales"]),
        learned(params["gaussian.quats"]),
        learned(column["opacities"]),
        torch.zeros(n),
        zeros,
        zeros.clone(),
        zeros.clone(),
        {"state": {}, "param_groups": [_group(i, name) for i, name in enumerate(groups)]},
        float(expert.meta.get("extent", 1.0)),
        learned(column["times"]),
        learned(column["log_time_scales"]),
        learned(right),
        prior.rot_4d,
        params.get(ENVIRONMENT, torch.empty(0)),
        degrees[1],
    )


def _group(index: int, name: str) -> dict[str, Any]:
    fixed = {"betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0, "amsgrad": False}
    return {"lr": 0.0, "name": name, **fixed, "params": [index]}


def _colors(expert: Expert, prior: Reformulation, rest: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Higher coefficients in the original's blocks of 16, and the degrees in space and time that are active."""
    if expert.meta.get("source") == PROJECT:
        return rest, tuple(expert.meta["active_degrees"])
    k, blocks = (prior.sh_degree + 1) ** 2, prior.sh_degree_t + 1
    if rest.shape[1] + 1 != k * blocks:
        raise ConfigError(f"gaussian.sh_rest: expected {k * blocks - 1} coefficients, got {rest.shape[1]}.")
    if blocks == 1:
        return rest, (prior.sh_degree, 0)
    # the DC term rides along as a zero, so that every block is padded alike
    block = torch.nn.functional.pad(rest, (0, 0, 1, 0)).unflatten(1, (blocks, k))
    padded = torch.nn.functional.pad(block, (0, 0, 0, 16 - k, 0, 3 - blocks))
    return padded.flatten(1, 2)[:, 1:].contiguous(), (3, prior.sh_degree_t)
