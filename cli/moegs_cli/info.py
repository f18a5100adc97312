"""``moegs info``: what a file or folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._models import expert_file, is_mixture, open_expert

if TYPE_CHECKING:
    from moegs.expert import Expert


@click.command(
    short_help="Describe an expert or a mixture.",
    epilog="\b\nExamples:\n  moegs info runs/poly\n  moegs info runs/mix --json",
)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(model: Path, as_json: bool) -> None:
    """Describe MODEL: an expert's file or folder, or a mixture's folder, whose hashes are checked."""
    found = describe_mixture(model) if is_mixture(model) else describe_expert(open_expert(model), expert_file(model))
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))


def describe_expert(expert: Expert, file: Path) -> dict[str, Any]:
    """Everything about an expert but its numbers, JSON-ready."""
    from dataclasses import asdict

    from moegs.deform import to_config

    return {
        "kind": "expert",
        "prior": expert.prior.name,
        "gaussians": len(expert),
        "megabytes": file.stat().st_size / 1e6,
        "config": to_config(expert.prior),
        "options": asdict(expert.options),
        "background": list(expert.background),
        "decoder": expert.decoder,
        "meta": expert.meta,
        "tensors": {k: [str(v.dtype).removeprefix("torch."), list(v.shape)] for k, v in sorted(expert.params.items())},
    }


def describe_mixture(folder: Path) -> dict[str, Any]:
    """Router, provenance and experts of a mixture, JSON-ready; every hash has been checked."""
    from moegs.metrics import bytes_on_disk
    from moegs.route import load_mixture, read_manifest

    manifest, mixture = read_manifest(folder), load_mixture(folder)
    files = {name: folder / f"experts/{name}.safetensors" for name in mixture.experts}
    return {
        "kind": "mixture",
        "gaussians": sum(len(e) for e in mixture.experts.values()),
        "megabytes": sum(bytes_on_disk(folder / name) for name in manifest["sha256"]) / 1e6,
        "router": mixture.router.to_config()["config"],
        "meta": manifest["meta"],
        "sha256": manifest["sha256"],
        "experts": {name: describe_expert(expert, files[name]) for name, expert in mixture.experts.items()},
    }


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in found.items():
        if key == "seen_from" and isinstance(value, list):
            lines.append(f"{indent}{key}: {len(value)} cameras")
        elif isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif key == "tensors" or (isinstance(value, list) and len(value) == 2 and isinstance(value[1], list)):
            lines.append(f"{indent}{key}: {value[0]} {value[1]}")
        else:
            lines.append(f"{indent}{key}: {_short(value)}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
