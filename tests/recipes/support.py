"""Running a recipe as its user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def attempt(recipe: str, *args: object, first: str = "") -> subprocess.CompletedProcess[str]:
    """Run a recipe; ``first`` is a folder in which Python looks for packages before all others."""
    # the recipe has to find moegs as its user would: from the environment, not from the folder it is started in
    roots = [first, str(RECIPES.parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, roots))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, str(RECIPES / recipe), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def run(recipe: str, *args: object, first: str = "") -> str:
    """What a recipe prints; the test fails when the recipe does."""
    done = attempt(recipe, *args, first=first)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
