"""A tiny capture that all recipes run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from moegs.data.synth import synthesize


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("captures") / "room"
    return synthesize(out, cameras=4, frames=4, size=(48, 32), progress=False)
