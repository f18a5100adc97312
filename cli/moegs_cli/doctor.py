"""``moegs doctor``: what is here, what runs, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from typing import Any

import click

EXTRAS = {
    "gpu": ("gsplat", "packaging"),
    "view": ("viser",),
    "report": ("jinja2", "matplotlib"),
    "colmap": ("pycolmap",),
    "lpips": ("lpips",),
}


@click.command(short_help="Say what moegs finds on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what moegs finds on this machine: versions, rasterisers, threads, video, extras.

    Exits with 1 when something that every run needs does not work.
    """
    report = examine()
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    raise SystemExit(1 if report["problems"] else 0)


def examine() -> dict[str, Any]:
    """All findings, JSON-ready; ``problems`` lists what has to be mended."""
    report: dict[str, Any] = {
        "moegs": _version("moegs"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": _torch(),
        "native": _native(),
        "gsplat": _version("gsplat"),
        "video": _video(),
        "extras": {name: [p for p in packages if not _installed(p)] for name, packages in EXTRAS.items()},
        "frame_cache": _frame_cache(),
    }
    report["backend"] = _backend(report)
    report["problems"] = [f"{key}: {value['problem']}" for key, value in report.items() if _has_problem(value)]
    return report


def _has_problem(value: Any) -> bool:
    return isinstance(value, dict) and "problem" in value


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"problem": f"cannot be imported ({error}); pip install torch"}
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"version": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "cuda": cuda}


def _native() -> dict[str, Any]:
    try:
        from moegs.render import native
    except ImportError as error:
        return {"available": False, "reason": str(error)}
    if not native.available():
        return {"available": False, "reason": native.why_not()}
    return {"available": True, "isa": native.isa(), "threads": native.threads()}


def _video() -> dict[str, Any]:
    try:
        import av
    except ImportError as error:
        return {"problem": f"PyAV cannot be imported ({error}); pip install av"}
    return {"av": av.__version__, "h264_encoder": "libx264" in av.codecs_available}


def _frame_cache() -> dict[str, Any]:
    try:
        from moegs.data.frames import default_cache
    except ImportError:
        return {}
    folder = default_cache()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    found: dict[str, Any] = {"folder": str(folder)}
    if not os.access(existing, os.W_OK):
        found["problem"] = f"{existing} cannot be written; set XDG_CACHE_HOME or use --frame-cache"
    return found


def _backend(report: dict[str, Any]) -> str:
    """Which rasteriser an ordinary run takes here: tensors live on the CPU unless somebody moves them."""
    return "native" if report["native"]["available"] else "reference"


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in _lines(report):
        table.add_row(name, value)
    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(table)
    for problem in report["problems"]:
        console.print(f"[bold red]problem[/] {problem}", highlight=False)


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    torch, native, video = report["torch"], report["native"], report["video"]
    return [
        ("moegs", f"{report['moegs'] or 'from a checkout, not installed'}"),
        ("python", f"{report['python']} on {report['platform']}"),
        ("torch", _or_problem(torch, lambda t: f"{t['version']}, {t['threads']} threads on {t['cores']} cores")),
        ("CUDA", torch.get("cuda") or "none"),
        ("rasteriser", f"{report['backend']} (on the CPU)"),
        ("native kernels", _kernels(native)),
        ("gsplat", report["gsplat"] or "not installed: pip install 'moegs\\[gpu]' to render on CUDA"),
        ("video", _or_problem(video, lambda v: f"PyAV {v['av']}, {'with' if v['h264_encoder'] else 'without'} H.264")),
        ("frame cache", report["frame_cache"].get("folder", "")),
        *((f"extra {name}", _extra(name, missing)) for name, missing in report["extras"].items()),
    ]


def _kernels(native: dict[str, Any]) -> str:
    return f"{native['isa']}, {native['threads']} threads" if native["available"] else str(native["reason"])


def _or_problem(value: dict[str, Any], show: Any) -> str:
    return value["problem"] if "problem" in value else show(value)


def _extra(name: str, missing: list[str]) -> str:
    return f"lacks {', '.join(missing)}: pip install 'moegs\\[{name}]'" if missing else "installed"
