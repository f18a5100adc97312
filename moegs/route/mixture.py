"""A mixture: several experts and the router over them, kept in one folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from moegs.errors import ConfigError, FormatError
from moegs.expert import Expert, expert_key, load_expert, save_expert
from moegs.io import atomic_write, digest, sha256, sync_folder, write_json
from moegs.route.routers import VolumePixelRouter, router_from_config

FORMAT, VERSION = "moegs-mixture", 1
ROUTER, STAGED = "router.safetensors", ".mixture"
_FILE = re.compile(r"router\.safetensors|experts/[^./\\\x00][^/\\\x00]*\.safetensors")


@dataclass(frozen=True, eq=False)
class Mixture:
    """Frozen experts by name, in order, and the router over their Gaussians."""

    experts: dict[str, Expert]
    router: VolumePixelRouter

    def __post_init__(self) -> None:
        counts = tuple(len(e) for e in self.experts.values())
        if counts != self.router.counts:
            raise ConfigError(f"mixture: the router was made for {self.router.counts} Gaussians, the experts have {counts}.")

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(iter(self.experts.values())).device

    def to(self, target: torch.device | torch.dtype | str) -> Mixture:
        """Experts and a copy of the router, moved to a device or cast to a dtype."""
        return Mixture({name: e.to(target) for name, e in self.experts.items()}, self.router.copied(target))

    def __repr__(self) -> str:
        experts = ", ".join(f"{name}: {len(e):,} Gaussians" for name, e in self.experts.items())
        return f"Mixture({experts}; {self.router.config.kind} router)"


def mixture_key(mixture: Mixture) -> str:
    """A digest of everything that a mixture's renders depend on: experts in order, and router."""
    experts = [[name, expert_key(e)] for name, e in mixture.experts.items()]
    router = [mixture.router.to_config(), digest(dict(mixture.router.state_dict()))]
    return hashlib.sha256(json.dumps([experts, router], sort_keys=True).encode()).hexdigest()


def save_mixture(mixture: Mixture, folder: str | Path, meta: dict[str, Any] | None = None) -> None:
    """Write ``experts/<name>.safetensors``, ``router.safetensors`` and ``manifest.json`` with every file's hash.

    The folder holds the mixture that was there before, or this one, wherever writing is cut short; experts that only
    the former had are removed.

    Raises:
        ConfigError: an expert's name cannot be that of a file.
    """
    if unfit := [n for n in mixture.experts if not isinstance(n, str) or not _FILE.fullmatch(_expert_file(n))]:
        raise ConfigError(f"mixture: expert {unfit[0]!r}: expected a name without slashes that does not begin with a dot.")
    folder = Path(folder)
    for killed in folder.glob(f"{STAGED}.*.part"):
        shutil.rmtree(killed, ignore_errors=True)
    staged = folder / f"{STAGED}.{secrets.token_hex(6)}.part"
    try:
        _write(mixture, staged, meta or {})
        finish_saving(folder)
        os.replace(staged, folder / STAGED)  # from here on this is the mixture
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    sync_folder(folder)
    finish_saving(folder)


def _write(mixture: Mixture, folder: Path, meta: dict[str, Any]) -> None:
    for name, expert in mixture.experts.items():
        save_expert(expert, folder / _expert_file(name))
    state = {k: v.detach().cpu().contiguous() for k, v in mixture.router.state_dict().items()}
    with atomic_write(folder / ROUTER) as file:
        file.write(save(state, metadata={"moegs": json.dumps(mixture.router.to_config())}))
    files = [*map(_expert_file, mixture.experts), ROUTER]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "experts": list(mixture.experts),
        "sha256": {name: sha256(folder / name) for name in files},
        "meta": meta,
    }
    write_json(folder / "manifest.json", manifest)


def _expert_file(name: str) -> str:
    return f"experts/{name}.safetensors"


def finish_saving(folder: Path) -> None:
    """Put the files of a mixture into place that :func:`save_mixture` had written when it was cut short, if there are any.

    Raises:
        FormatError: they are not a mixture's.
    """
    staged = folder / STAGED
    if not staged.is_dir():
        return
    if (staged / "manifest.json").exists():
        _move(staged, folder)
    shutil.rmtree(staged, ignore_errors=True)


def _move(staged: Path, folder: Path) -> None:
    """The manifest comes last: until then all of this can be done again."""
    new, old = _manifest(staged)["sha256"], {}
    with suppress(FormatError):  # there is none, or nobody can read it
        old = _manifest(folder)["sha256"]
    (folder / "experts").mkdir(exist_ok=True)
    for name in new:
        with suppress(FileNotFoundError):  # moved before it was cut short
            os.replace(staged / name, folder / name)
    for name in set(old) - set(new):
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder / "experts")
    sync_folder(folder)
    os.replace(staged / "manifest.json", folder / "manifest.json")
    sync_folder(folder)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read and check ``manifest.json``, after finishing what :func:`save_mixture` began there.

    Raises:
        FormatError: it is missing, not a mixture's, or from a newer version.
    """
    finish_saving(Path(folder))
    return _manifest(Path(folder))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file; a mixture is a folder with manifest.json.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not JSON ({error}).") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise FormatError(f"{path}: expected format {FORMAT!r} version {VERSION}.")
    for field, kind in (("experts", list), ("sha256", dict), ("meta", dict)):
        if not isinstance(manifest.get(field), kind):
            raise FormatError(f"{path}: field {field!r}: expected a {kind.__name__}, got {manifest.get(field)!r}.")
    _check_files(path, manifest["experts"], manifest["sha256"])
    return manifest


def _check_files(path: Path, experts: list[Any], hashes: dict[str, Any]) -> None:
    """A manifest names files of its own folder, which are moved and removed by these names, and all of them."""
    if odd := [name for name in experts if not isinstance(name, str) or not _FILE.fullmatch(_expert_file(name))]:
        raise FormatError(f"{path}: field 'experts': expected names of files, got {odd[0]!r}.")
    if odd := sorted({ROUTER, *map(_expert_file, experts)} ^ set(hashes)):
        raise FormatError(f"{path}: field 'sha256': expected {ROUTER} and one file an expert; look at {odd[0]!r}.")


def load_mixture(folder: str | Path, device: str = "cpu", verify: bool = True) -> Mixture:
    """Read what :func:`save_mixture` wrote.

    Raises:
        FormatError: a file is missing, damaged or not the one that the manifest names.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    for name, expected in manifest["sha256"].items() if verify else ():
        if not (folder / name).exists():
            raise FormatError(f"{folder / name}: named in manifest.json but missing.")
        if sha256(folder / name) != expected:
            raise FormatError(f"{folder / name}: its sha256 is not the one in manifest.json; the file was changed.")
    experts = {name: load_expert(folder / _expert_file(name), device) for name in manifest["experts"]}
    router = load_router(folder / ROUTER, device)
    if (counts := tuple(map(len, experts.values()))) != router.counts:
        raise FormatError(f"{folder / ROUTER}: was made for {router.counts} Gaussians, the experts beside it have {counts}.")
    return Mixture(experts, router)


def load_router(path: str | Path, device: str = "cpu") -> VolumePixelRouter:
    """Read a router file.

    Raises:
        FormatError: it is missing, damaged, or its tensors do not fit its configuration.
    """
    try:
        with safe_open(path, framework="pt") as file:
            with torch.device("meta"):  # the file says how large, and may lie
                router = router_from_config(json.loads((file.metadata() or {})["moegs"]))
            saved = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
            state = {k: v if v.dtype == torch.float64 else v.float() for k, v in saved.items()}
            empty = {k: torch.zeros(v.shape) for k, v in router.state_dict().items() if not v.numel()}
            router.load_state_dict(empty | state, assign=True)  # older files lack tensors that their settings leave empty
    except MemoryError:
        raise
    except Exception as error:  # strange configurations and tensors fail in every way there is
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise FormatError(f"{path}: not a readable router ({reason}).") from error
    return router.to(device)
