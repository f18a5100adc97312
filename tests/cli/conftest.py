"""A tiny capture, and what one training of each kind on it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moegs.data.synth import synthesize
from moegs_cli.main import main

Cli = Callable[..., Result]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run ``moegs`` in this process; a nonzero exit fails the test unless it is expected."""

    def run(*args: object, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in args], prog_name="moegs")
        assert result.exit_code == exit_code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("captures") / "clip", cameras=4, frames=4, size=(48, 32), progress=False)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="session")
def experts(cli: Cli, clip: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a polynomial and an interpolation expert, trained for some steps."""
    folder = tmp_path_factory.mktemp("runs")
    for prior in ("polynomial", "interpolation"):
        cli(
            "train", clip, "--prior", prior, "--out", folder / prior, "--steps", 12, "--frame-cache", cache,
            "--checkpoint-every", 5, "--quiet",
        )  # fmt: skip
    return {prior: folder / prior for prior in ("polynomial", "interpolation")}


@pytest.fixture(scope="session")
def mixture(
    cli: Cli, clip: Path, cache: Path, experts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of a mixture of the two."""
    out = tmp_path_factory.mktemp("mixtures") / "mix"
    cli("route", clip, "--experts", *experts.values(), "--out", out, "--steps", 6, "--frame-cache", cache, "--quiet")
    return out
