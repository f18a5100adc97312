"""What makes a script a recipe: it can be stopped anywhere and started again, and says what is wrong in one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from moegs.data import Scene
from moegs.deform.prior import Prior
from moegs.errors import MoegsError
from moegs.expert import Expert, load_expert, save_expert
from moegs.io import digest
from moegs.train.fit import FitConfig, fit_expert


def fit_or_load(
    scene: Scene, prior: Prior, config: FitConfig, folder: str | Path, *, device: str = "cpu", progress: bool = True
) -> Expert:
    """Train an expert in a folder, go on with what was interrupted there, or read what was finished.

    The expert is ``expert.safetensors`` in the folder. Its ``meta["train_seconds"]`` is how long training took, or None
    when it was interrupted, since earlier stretches are not known.

    Raises:
        DivergenceError: a loss or gradient is not finite.
        ConfigError: the folder holds a run with other settings.
    """
    folder = Path(folder)
    file, untouched = folder / "expert.safetensors", not (folder / "checkpoint.safetensors").exists()
    started = time.perf_counter()
    trained = fit_expert(scene, prior, config, out=folder, resume=True, device=device, progress=progress)
    if file.exists() and digest((done := load_expert(file, device)).params) == digest(trained.params):
        return done  # finished before: fit_expert has only made sure that the settings are the same
    seconds = time.perf_counter() - started if untouched else None
    trained = replace(trained, meta=trained.meta | {"train_seconds": seconds})
    save_expert(trained, file)
    return trained


def run_recipe(main: Callable[[], None]) -> None:
    """Run a script's main function; an error of ours or Ctrl-C ends it with one line and exit code 1."""
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command goes on from the last checkpoint") from None
    except MoegsError as error:
        raise SystemExit(f"{Path(sys.argv[0]).stem}: {error}") from None
