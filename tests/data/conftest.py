"""A tiny synthetic capture, made once, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moegs.data import Scene, load_scene, synthesize

CAMERAS, FRAMES, SIZE = 4, 5, (48, 36)


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole capture in N3V layout; do not write into it."""
    out = tmp_path_factory.mktemp("synth") / "tiny"
    return synthesize(out, cameras=CAMERAS, frames=FRAMES, size=SIZE, progress=False)


@pytest.fixture(scope="session")
def scene(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same, loaded."""
    return load_scene(capture, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture
def damaged(capture: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(capture, tmp_path / "capture"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for the frame cache."""
    return tmp_path / "cache"
