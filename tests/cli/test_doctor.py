from __future__ import annotations

import json

from moegs.render import native
from moegs_cli import doctor


def test_json_says_what_runs(cli):
    found = json.loads(cli("doctor", "--json").output)
    assert found["problems"] == []
    assert found["native"]["available"] == native.available()
    assert found["backend"] == ("native" if native.available() else "reference")
    assert found["torch"]["threads"] >= 1
    assert set(found["extras"]) == {"gpu", "view", "report", "colmap", "lpips"}


def test_without_the_native_module_it_says_why(cli, monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "why_not", lambda: "compiled without a compiler")
    text = cli("doctor").output
    assert "compiled without a compiler" in text and "reference" in text


def test_a_broken_requirement_is_a_problem(cli, monkeypatch):
    monkeypatch.setattr(doctor, "_video", lambda: {"problem": "PyAV cannot be imported"})
    text = cli("doctor", exit_code=1).output
    assert "problem video: PyAV cannot be imported" in text
