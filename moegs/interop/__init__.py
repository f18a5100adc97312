"""Checkpoints of the original projects in and out, and .ply sequences out.

>>> expert = load("output/sear_steak")                        # doctest: +SKIP
>>> export(expert, "back", "4dgaussians")                     # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.interop import _detect, ed3dgs, ex4dgs, four_d_gaussians, four_dgs, moegs_stage2, spacetime
from moegs.interop._canonical import unlike_stock
from moegs.interop._chunks import chunk_folders, join_chunks
from moegs.interop._files import config_in, find_run
from moegs.interop._mixture import to_mixture
from moegs.interop._refilter import VIEWERS, drawn_alike, viewpoints
from moegs.interop._sequence import export_ply_sequence
from moegs.interop.moegs_stage2 import ImportedMixture

__all__ = [
    "FORMATS",
    "ImportedMixture",
    "export",
    "export_ply_sequence",
    "fits_viewers",
    "load",
    "load_mixture",
    "options_of",
    "to_mixture",
    "unlike_original",
    "viewpoints",
]

STAGE2 = "moegs"
_MODULES: dict[str, ModuleType] = {
    "4dgaussians": four_d_gaussians,
    "e-d3dgs": ed3dgs,
    "ex4dgs": ex4dgs,
    "spacetime": spacetime,
    "4dgs": four_dgs,
}
FORMATS = (*_MODULES, STAGE2)
"""Names of the formats that :func:`load` reads."""


def load(path: str | Path, format: str = "auto", **options: Any) -> Expert | ImportedMixture:
    """Read a checkpoint of one of the original projects.

    Nothing in the files is evaluated or executed: PLY headers are held against file sizes, torch files may hold tensors
    and plain numbers only, ``cfg_args`` is read as literals.

    Args:
        path: the run's folder, its ``point_cloud`` folder, one iteration's folder, or a file in it.
        format: one of :data:`FORMATS`, or ``"auto"`` to tell from the files.
        options: ``iteration`` chooses one that was saved (the last by default; coarse stages are never taken). The rest
            is what the files do not hold, by project; see :func:`options_of` and the ``load`` of each module.

    A single expert of a stage-2 mixture is read without its router weights. Lite models of SpacetimeGaussians for successive
    parts of a clip, in folders ``0of6`` to ``5of6``, come as one expert.

    Returns:
        An expert whose ``at(t)`` takes t in [0, 1] over the clip; for stage 2 of MoE-GS an :class:`ImportedMixture`.

    Raises:
        FormatError: the files are missing, damaged, or of no known project; the message names file and field.
        ConfigError: an option or format is unknown or has no meaning.
    """
    if format not in ("auto", *FORMATS):
        raise ConfigError(f"format: expected 'auto' or one of {', '.join(FORMATS)}, got {format!r}.")
    if format == STAGE2 or (format == "auto" and _detect.is_stage2(path)):
        return load_mixture(path, **options)
    if format in ("auto", "spacetime") and (folders := chunk_folders(Path(path))):
        each = [{"chunk": (i, len(folders))} | options for i in range(len(folders))]
        return join_chunks([load(f, "spacetime", **more) for f, more in zip(folders, each, strict=True)])  # type: ignore[misc]
    run = find_run(path, options.pop("iteration", None))
    name = _detect.detect(run) if format == "auto" else format
    _check_options(name, options)
    if not _detect.has_router(run):
        return _MODULES[name].load(run, **options)
    shared = run.config if run.config.path else config_in(run.root.parent)  # one cfg_args for the whole mixture
    return _MODULES[name].load(run.with_config(shared), router=True, **options)


def load_mixture(path: str | Path, **options: Any) -> ImportedMixture:
    """Read a mixture of MoE-GS stage 2: experts, router weights per Gaussian and the pixel network.

    See :func:`moegs.interop.moegs_stage2.load`.
    """
    for name, own in options.items():
        if name in moegs_stage2.OPTIONS:
            if not isinstance(own, dict):
                raise ConfigError(f"option {name!r}: expected a dict of that expert's options, got {own!r}.")
            _check_options(moegs_stage2.OPTIONS[name], own)
    return moegs_stage2.load(path, **options)


def export(expert: Expert, path: str | Path, format: str = "auto") -> Path:
    """Write an expert in the layout of the project that invented its prior.

    What :func:`load` has read comes back bit for bit. Experts trained here are rewritten into an equal model where the
    original's architecture differs, and ``cfg_args`` says in words of our own what the layout has none for, so that
    :func:`load` brings back the same pictures. :func:`unlike_original` says what the original would draw otherwise.

    Args:
        expert: the expert.
        path: the run's folder; files in it are replaced one by one, each atomically.
        format: one of :data:`FORMATS` but ``"moegs"``, or ``"auto"`` for that of the expert's prior.

    Returns:
        The folder or file with the tensors.

    Raises:
        ConfigError: the format is unknown, or cannot hold the expert.
    """
    writers = {_prior_of(module): name for name, module in _MODULES.items()}
    name = writers.get(expert.prior.name) if format == "auto" else format
    if name is None:
        raise ConfigError(f"export: no original project has the prior {expert.prior.name!r}; write it as .ply files.")
    if name not in _MODULES:
        raise ConfigError(
            f"format: expected one of {', '.join(_MODULES)} for prior {expert.prior.name!r}, got {name!r}."
        )
    write: Callable[[Expert, str | Path], Path] = _MODULES[name].export
    return write(expert, path)


def unlike_original(expert: Expert) -> tuple[str, ...]:
    """In what the project that invented an expert's prior draws it otherwise than moegs; empty if it does not.

    Names are ``"low-pass filter"`` and options of the prior. What :func:`export` writes says so in ``cfg_args``, and
    :func:`load` reads it back; the original goes its own way.
    """
    module = next((m for m in _MODULES.values() if _prior_of(m) == expert.prior.name), None)
    unlike: Callable[[Expert], tuple[str, ...]] = getattr(module, "unlike", unlike_stock)
    return unlike(expert)


def fits_viewers(expert: Expert) -> bool:
    """Whether :func:`export_ply_sequence` writes what a viewer with 3D Gaussian Splatting's filter shows as it should be.

    It cannot rewrite an expert with another filter that does not know from where it was seen, as imports of Ex4DGS.
    """
    return drawn_alike(expert.options, VIEWERS) or viewpoints(expert.meta) is not None


def options_of(format: str) -> dict[str, Any]:
    """Options that a format understands, beside ``iteration``, with their defaults.

    Those of ``"moegs"`` are dicts of options of single experts: ``Ex4DGS={"duration": 313}``.

    Raises:
        ConfigError: there is no such format.
    """
    if format == STAGE2:
        return {name: {} for name in moegs_stage2.OPTIONS}
    if format not in _MODULES:
        raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}.")
    parameters = inspect.signature(_MODULES[format].load).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "router"}


def _prior_of(module: ModuleType) -> str:
    return str(module.PRIOR)


def _check_options(format: str, options: dict[str, Any]) -> None:
    known = ["iteration", *options_of(format)]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(f"option {unknown[0]!r} is not known for {format}; it knows {', '.join(known)}.")
