"""Runs that are cut, to see whether they go on."""

from __future__ import annotations

from types import ModuleType

import pytest


def stop_after(monkeypatch: pytest.MonkeyPatch, module: ModuleType, steps: int) -> None:
    """Let the runs of a training module be interrupted as if by Ctrl-C once they have taken so many steps."""
    original, done = module._step, []

    def step(*args):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return original(*args)

    monkeypatch.setattr(module, "_step", step)
