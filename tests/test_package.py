"""What ships: files, versions, extras, types, import time; and that the published commands exist."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import moegs

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of the pure-Python wheel, the one that a machine without a compiler gets."""
    pytest.importorskip("scikit_build_core")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir",
               str(out), "--config-settings=wheel.cmake=false", str(ROOT)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(out.glob("moegs-*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    assert {name.partition("/")[0] for name in wheel} == {"moegs", "moegs_cli", f"moegs-{moegs.__version__}.dist-info"}
    assert {"moegs/py.typed", "moegs_cli/py.typed", "moegs/render/native/__init__.py"} <= set(wheel)
    assert not [n for n in wheel if n.endswith((".cpp", ".h", ".so", ".pyc"))]
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "moegs").rglob("*.py")}
    assert ours <= set(wheel)


def test_versions_agree():
    assert PROJECT["project"]["version"] == moegs.__version__
    assert f"## {moegs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_every_requirement_and_extra():
    pins = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(requirement for extra in extras for requirement in extra)]
    names = {re.split(r"[\s<>=!\[;]", w, maxsplit=1)[0].lower() for w in wanted} - {"moegs"}
    assert names <= set(pins)
    assert pins["torch"] == "2.13.0"


def test_the_extras_are_those_that_the_readme_promises():
    assert set(PROJECT["project"]["optional-dependencies"]) == {"gpu", "view", "report", "colmap", "lpips", "dev"}


def test_the_doctor_knows_every_extra():
    from moegs_cli.doctor import EXTRAS

    assert set(EXTRAS) == set(PROJECT["project"]["optional-dependencies"]) - {"dev"}


def test_the_installed_console_script_is_ours():
    try:
        scripts = importlib.metadata.distribution("moegs").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("moegs runs from the checkout here, it is not installed")
    assert [(e.name, e.value) for e in scripts] == [("moegs", "moegs_cli.main:main")]


@pytest.mark.parametrize("module", ["moegs", "moegs.errors", "moegs_cli.main", "moegs_cli.train", "moegs_cli.render"])
def test_light_imports_stay_light(module):
    program = f"import sys, {module}; print([m for m in ('torch', 'numpy', 'rich', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_moegs_prints_and_writes_nothing(tmp_path):
    program = "import moegs.train, moegs.route, moegs.interop, moegs.report"
    environment = {"PYTHONPATH": f"{ROOT}", "HOME": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    assert done.stdout == done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_makefile_has_what_the_readme_names():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(targets)


def test_waiting_threads_yield_unless_told_otherwise():
    program = "import os, moegs; print(os.environ['OMP_WAIT_POLICY'])"
    for setting, expected in ({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | setting
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == expected


def test_one_part_alone_brings_no_video_decoder_along():
    """Whoever imports a router does not wait for what reads captures."""
    heavy = ["av", "PIL", "rich", "scipy", "matplotlib", "moegs.data", "moegs.train"]
    code = f"import sys, moegs.route, moegs.interop; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
