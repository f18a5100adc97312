"""E-D3DGS: ``point_cloud.ply`` with an embedding a Gaussian, and ``deformation.pth`` with two networks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from moegs.deform.embedding import STAGES, Embedding
from moegs.errors import FormatError
from moegs.expert import Expert
from moegs.gaussians.params import Params
from moegs.gaussians.ply import columns_of, numbered, stack
from moegs.gaussians.vertices import write_vertices
from moegs.interop import _canonical as common
from moegs.interop import _networks as networks
from moegs.interop._cfg_args import Config
from moegs.interop._files import Run
from moegs.interop._tensors import expect, load_state

PROJECT, PRIOR = "E-D3DGS", Embedding.name
HEADS = {
    "means": ("pos", ""), "scales": ("scales", "no_ds"), "quats": ("rotations", "no_dr"),
    "opacities": ("opacity", "no_do"), "sh": ("rgb", "no_dc"),
}  # fmt: skip
SUFFIX = {"coarse": "_c", "fine": "_f"}
RAMP = 1000  # steps over which their annealing rises
TECHNICOLOR_ROWS = 25


def load(run: Run, *, router: bool = False, step: int | None = None, heads: tuple[str, ...] | None = None) -> Expert:
    """Read one model.

    Args:
        run: its files.
        router: the files come from stage 2 of MoE-GS, with router columns; the model is then final whatever the
            iteration's number, which counts the router's steps.
        step: training step whose annealing and temporal resolution apply; by default the iteration that was read.
        heads: raw fields that the networks move, some of ``means scales quats opacities sh``. Without it, ``no_ds`` and
            its likes in ``cfg_args`` decide; without that file all move, but for colours where 25 temporal codes tell
            of Technicolor.

    Raises:
        FormatError: a file or tensor is missing, damaged or of the wrong shape.
        ConfigError: an option has no meaning.
    """
    columns = common.read_columns(run.ply, router)
    codes = numbered("embedding", sum(name.startswith("embedding_") for name in columns))
    params = common.canonical_params(run.ply, columns, codes)
    params["gaussian.embeddings"] = stack(columns, *codes)
    params |= _networks(run.file("deformation.pth"), len(codes))
    run.config.refuse(use_coarse_temporal_embedding=True)
    prior = _prior(run, params, heads)
    if not router or step is not None:
        prior = _at_step(prior, run.config, run.iteration if step is None else common.whole("step", step, least=0))
    return Expert(
        prior,
        params,
        options=common.raster_options(run.config, common.STOCK),
        background=common.WHITE if router else common.background(run.config, default=True),
        meta=common.meta(PROJECT, run) | ({} if step is None else {"iteration": step}),
    )


def _networks(path: Path, n_codes: int) -> Params:
    state = {_modern(name): value for name, value in load_state(path).items()}
    weight = expect(path, "weight", state.get("weight"), None, None)
    params = {"temporal.weight": weight, "camera.offsets": expect(path, "offsets", state.get("offsets"), None, 1)}
    known = {"weight", "offsets"}
    for stage in STAGES:
        inputs = weight.shape[1] + n_codes
        net = networks.read_network(path, state, _trunk(stage), _heads(stage), inputs, f"mlp.{stage}.")
        known |= set(networks.write_network(net, _trunk(stage), _heads(stage), f"mlp.{stage}."))
        params |= net
    if left := sorted(set(state) - known):
        raise FormatError(f"{path}: tensor {left[0]!r} is not known; expected those of E-D3DGS's deform_network.")
    if not weight.numel():
        raise FormatError(f"{path}: 'weight' is empty; expected one temporal code a row.")
    return params


def _modern(name: str) -> str:
    """Names of older checkpoints brought to those of the current code."""
    return name.removeprefix("deformation_net.").replace("_f1.", "_f.")


def _trunk(stage: str) -> str:
    return f"feature_out{SUFFIX[stage]}"


def _heads(stage: str) -> dict[str, str]:
    return {head: f"{name}_deform{SUFFIX[stage]}" for head, (name, _) in HEADS.items()}


def _prior(run: Run, params: Params, heads: tuple[str, ...] | None) -> Embedding:
    rows, temporal = params["temporal.weight"].shape
    config = run.config
    stages = tuple(s for s in STAGES if not config.flag(f"no_{s}_deform", False))
    coarse = config.count("min_embeddings", max(rows // 5, 1))
    if not 1 <= coarse <= rows:
        raise FormatError(f"{config.path}: option 'min_embeddings': expected 1 to {rows}, got {coarse}.")
    return replace(
        Embedding.technicolor() if rows == TECHNICOLOR_ROWS else Embedding.n3v(),
        sh_degree=networks.sh_degree(params),
        gaussian_size=params["gaussian.embeddings"].shape[1],
        temporal_size=temporal,
        rows=rows,
        coarse_rows=coarse,
        stages=stages,
        width=params["mlp.fine.trunk.0.weight"].shape[0],
        trunk_layers=sum(n.startswith("mlp.fine.trunk.") and n.endswith(".weight") for n in params),
        heads=heads or _moving(config, rows),
        cameras=params["camera.offsets"].shape[0],
    )


def _moving(config: Config, rows: int) -> tuple[str, ...]:
    guess = {"no_dc": config.path is None and rows == TECHNICOLOR_ROWS}
    return tuple(h for h, (_, flag) in HEADS.items() if not flag or not config.flag(flag, guess.get(flag, False)))


def _at_step(prior: Embedding, config: Config, step: int | None) -> Embedding:
    """Annealing and temporal resolution after some steps, as the original's renderer applies them."""
    if step is None:
        return prior
    until = config.count("c2f_temporal_iter", 10_000)
    if step < until and not config.flag("no_c2f_temporal_embedding", prior.rows == TECHNICOLOR_ROWS):
        grown = prior.coarse_rows + (prior.rows - prior.coarse_rows) * step / until
        prior = replace(prior, fine_rows=int(grown))
    if not config.flag("use_anneal", prior.rows != TECHNICOLOR_ROWS):
        return prior
    late = step - config.count("deform_from_iter", 0 if prior.rows == TECHNICOLOR_ROWS else 5000)
    return replace(prior, gain=_ramp(step), late_gain=_ramp(late))


def _ramp(step: int) -> float:
    return min(max(step / RAMP, 0.0), 1.0)


def export(expert: Expert, folder: str | Path) -> Path:
    """Write an expert with prior ``embedding`` as E-D3DGS would; tensors of an import come back bit for bit.

    Experts trained here are rewritten into an equal model: one-layer heads get an identity before them and ``mlp.unit``
    moves into the weights.

    Returns:
        The iteration's folder.

    Raises:
        ConfigError: the expert has another prior.
    """
    folder = Path(folder)
    prior = common.expect_prior(expert, Embedding, PROJECT)
    params = networks.in_original_shape(expert.params, tuple(f"mlp.{stage}." for stage in STAGES), PROJECT)
    place = common.iteration_folder(expert, folder)
    fields = {k.removeprefix("gaussian."): v for k, v in params.items() if k.startswith("gaussian.")}
    codes = columns_of(fields["embeddings"], *numbered("embedding", fields["embeddings"].shape[1]))
    write_vertices(place / "point_cloud.ply", common.canonical_columns(fields) | codes)
    common.save_torch(_state(params), place / "deformation.pth")
    common.write_config(expert, folder, **_flags(expert, prior, params))
    return place


def _state(params: Params) -> OrderedDict[str, Tensor]:
    state = {"weight": params["temporal.weight"], "offsets": params["camera.offsets"]}
    for stage in STAGES:
        state |= networks.write_network(params, _trunk(stage), _heads(stage), f"mlp.{stage}.")
    return OrderedDict((name, value.detach().cpu().contiguous().clone()) for name, value in state.items())


def _flags(expert: Expert, prior: Embedding, params: Params) -> dict[str, Any]:
    cfg = expert.meta.get("cfg_args", {})
    final = prior.gain == prior.late_gain == 1.0 and prior.fine_rows in (0, prior.rows)
    known = cfg.get("defor_depth")
    return {
        "sh_degree": networks.sh_degree(params),
        "white_background": expert.background == common.WHITE,
        "net_width": prior.width,
        "defor_depth": known if prior.trunk_layers == 1 and known in (0, 1) else prior.trunk_layers,
        "min_embeddings": prior.coarse_rows,
        "max_embeddings": prior.rows,
        "temporal_embedding_dim": prior.temporal_size,
        "gaussian_embedding_dim": prior.gaussian_size,
        "use_coarse_temporal_embedding": True,
        "no_c2f_temporal_embedding": cfg.get("no_c2f_temporal_embedding", final),
        "use_anneal": cfg.get("use_anneal", not final),
        **{f"no_{stage}_deform": stage not in prior.stages for stage in STAGES},
        **{flag: head not in prior.heads for head, (_, flag) in HEADS.items() if flag},
    }
