"""Running a recipe as its user would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def attempt(recipe: str, *args: object, first: str = "") -> subprocess.CompletedProcess[str]:
    """Run a recipe; ``first`` is a folder in which Python looks for packages before all others."""
    command, environment = _command(recipe, args), _environment(first)
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def _command(recipe: str, args: tuple[object, ...]) -> list[str]:
    return [sys.executable, str(RECIPES / recipe), *map(str, args)]


def _environment(first: str = "") -> dict[str, str]:
    # the recipe has to find moegs as its user would: from the environment, not from the folder it is started in
    roots = [first, str(RECIPES.parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, roots))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


@contextmanager
def background(recipe: str, *args: object) -> Iterator[subprocess.Popen[bytes]]:
    """A recipe that runs while the block does, and is killed where the block ends."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(_command(recipe, args), env=_environment(), **quiet)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def run(recipe: str, *args: object, first: str = "") -> str:
    """What a recipe prints; the test fails when the recipe does."""
    done = attempt(recipe, *args, first=first)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
