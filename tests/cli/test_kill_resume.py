"""Training that is killed at arbitrary moments and continued ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
STEPS = 40


def _start(*args: object) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MOEGS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "moegs_cli", *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_heed_ctrl_c
    )


def _heed_ctrl_c() -> None:
    """A test run in the background ignores Ctrl-C, and so would everything it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _finish(*args: object) -> None:
    process = _start(*args)
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors


def _survive(arguments: list[object], out: Path, kills: int, draw: random.Random) -> int:
    """Kill a run again and again, some steps after it got to work, and resume it; returns how often it was hit."""
    hits = 0
    for attempt in range(kills):
        process = _start(*arguments, *(["--resume"] if attempt else []))
        before = _stamp(out)
        while process.poll() is None and _stamp(out) == before:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.3))
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    _finish(*arguments, "--resume")
    return hits


def _stamp(out: Path) -> int:
    checkpoint = out / "checkpoint.safetensors"
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def test_a_killed_expert_ends_in_the_same_bytes(clip, cache, tmp_path):
    def arguments(out: Path) -> list[object]:
        return ["train", clip, "--prior", "interpolation", "--out", out, "--steps", STEPS, "--checkpoint-every", 3,
                "--frame-cache", cache, "--quiet"]  # fmt: skip

    _finish(*arguments(tmp_path / "whole"))
    assert _survive(arguments(tmp_path / "killed"), tmp_path / "killed", 4, random.Random(7)) > 0
    for name in ("expert.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_killed_router_ends_in_the_same_bytes(clip, cache, experts, tmp_path):
    def arguments(out: Path) -> list[object]:
        return ["route", clip, "--experts", *experts.values(), "--out", out, "--steps", STEPS, "--checkpoint-every", 3,
                "--frame-cache", cache, "--quiet"]  # fmt: skip

    _finish(*arguments(tmp_path / "whole"))
    assert _survive(arguments(tmp_path / "killed"), tmp_path / "killed", 3, random.Random(8)) > 0
    for name in ("router.safetensors", "manifest.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(clip, cache, tmp_path):
    process = _start("train", clip, "--prior", "polynomial", "--out", tmp_path, "--steps", 100_000,
                     "--checkpoint-every", 2, "--frame-cache", cache, "--quiet")  # fmt: skip
    try:
        while process.poll() is None and not _stamp(tmp_path):
            time.sleep(0.01)
        errors = _press_ctrl_c(process)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    said = "moegs: interrupted; runs that keep checkpoints continue with --resume"
    assert errors.strip() == said or ("Exception ignored" in errors and errors.strip().endswith(said)), errors
    assert _stamp(tmp_path)


def _press_ctrl_c(process: subprocess.Popen[str]) -> str:
    """As people do, again if nothing happens: Python drops an interrupt that lands in a destructor."""
    for _ in range(6):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=20)[1]
    raise AssertionError("still running after six times Ctrl-C")
