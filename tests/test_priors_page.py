"""docs/priors.md: its tables are what the code says, and the prior that it teaches to write works.

``python -m tests.test_priors_page`` writes the tables anew.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moegs import deform, train
from moegs.data import Scene
from moegs.expert import load_expert, render_expert
from moegs.gaussians import PointCloud
from moegs.io import atomic_write
from moegs.metrics import psnr
from tests.deform import test_prior_contract as contract
from tests.train.scenes import small_scene

PAGE = Path(__file__).resolve().parent.parent / "docs" / "priors.md"
PRIORS = ("polynomial", "interpolation", "hexplane", "embedding", "reformulation")
TABLE = r"(<!-- options of {} -->\n).*?(?=<!-- end -->)"


def options_table(name: str) -> str:
    """Every option with its values and what the class says about it; cells like the default stay empty."""
    cls = deform.get(name)
    columns = {"default": cls(), "for_clip(48)": cls.for_clip(48), "n3v()": cls.n3v()}
    said, before = _said(cls), ""
    lines = [f"| option | {' | '.join(columns)} | |", "|---|" + "---|" * (len(columns) + 1)]
    for field in fields(cls):
        values = [_shown(getattr(prior, field.name)) for prior in columns.values()]
        cells = [values[0], *("" if value == values[0] else value for value in values[1:])]
        text = said.get(field.name, "")
        lines.append(f"| `{field.name}` | {' | '.join(cells)} | {'(as above)' if text and text == before else text} |")
        before = text
    return "\n".join(["", *lines, "", f"`lr_*`: {said['lr_*']}", ""])


def _said(cls: type) -> dict[str, str]:
    """What the docstring's list of attributes says, by attribute."""
    listed = inspect.getdoc(cls).partition("Attributes:")[2].split("\n    ")
    entries = re.sub(r"\n +", " ", "\n".join(listed).replace("\n    ", " ")).strip().split("\n")
    said = {}
    for entry in entries:
        names, _, text = entry.strip().partition(": ")
        plain = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.replace("``", "`")).replace("|", "\\|")
        said |= dict.fromkeys(names.split(", "), plain)
    return said


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def section(name: str) -> str:
    """What the page says about one prior."""
    return re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1 + PRIORS.index(name)]


def blocks() -> list[str]:
    """Python on the page, in order."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("name", PRIORS)
def test_options_are_those_of_the_class(name):
    found = re.search(TABLE.format(name), section(name), flags=re.DOTALL)
    assert found is not None, f"docs/priors.md has no table of {name}'s options"
    assert found[0].partition("\n")[2] == options_table(name), "run: python -m tests.test_priors_page"


@pytest.mark.parametrize("name", PRIORS)
def test_every_option_is_explained(name):
    cls = deform.get(name)
    unexplained = [f.name for f in fields(cls) if not f.name.startswith("lr_") and f.name not in _said(cls)]
    assert unexplained == []


@pytest.mark.parametrize("name", PRIORS)
def test_every_tensor_is_on_the_page(name):
    text, prior = section(name), deform.get(name).n3v()
    if name == "interpolation":
        prior = replace(prior, dynamic=0.5)
    names = {re.sub(r"\.\d+", ".*", n) for n in prior.init(PointCloud(torch.rand(4, 3), torch.rand(4, 3)))}
    shown = re.sub(r"<\w+>", "*", text)
    assert [n for n in sorted(names) if n.rpartition("gaussian.")[2] not in shown and not n.startswith("mlp.")] == []


@pytest.fixture
def swing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """The class of the page's example, as a file of its own and gone again afterwards."""
    (tmp_path / "swing.py").write_text(blocks()[0])
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("swing")
    yield module.Swing
    deform.prior._REGISTRY.pop("swing")
    sys.modules.pop("swing")


def test_the_example_is_short():
    assert len(blocks()[0].splitlines()) <= 40


def test_the_example_keeps_the_promises_of_a_prior(swing):
    for name, check in inspect.getmembers(contract, inspect.isfunction):
        if name.startswith("test_") and list(inspect.signature(check).parameters) == ["name"]:
            check("swing")
    _, params = contract.make("swing")
    for key in swing().param_groups(params, 1.0):
        contract.test_gradients_of_every_tensor("swing", key)


def test_the_example_trains_as_the_page_says(swing, tmp_path, monkeypatch):
    scene = small_scene()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moegs.data.load_scene", lambda path: scene)
    monkeypatch.setitem(train.BUDGETS, "small", replace(train.BUDGETS["small"], steps=20))
    names: dict[str, Any] = {}
    exec(blocks()[1], names)
    before = replace(names["expert"], params=swing().init(scene.cloud, torch.Generator().manual_seed(0)))
    assert _quality(names["expert"], scene) > _quality(before, scene) + 1
    assert names["expert"].params["gaussian.swing"].abs().max() > 5e-3
    assert load_expert(tmp_path / "runs" / "swing" / "expert.safetensors").prior == swing()


def _quality(expert: Any, scene: Scene) -> float:
    frames = range(scene.n_frames)
    images = [render_expert(expert, scene.cameras[0], scene.time(f)).color.detach().clamp(0, 1) for f in frames]
    return sum(psnr(image, scene.image(0, f)) for f, image in zip(frames, images, strict=True)) / scene.n_frames


def main() -> None:
    text = PAGE.read_text()
    for name in PRIORS:
        table = options_table(name)
        text = re.sub(TABLE.format(name), lambda m, t=table: m[1] + t, text, flags=re.DOTALL)
    with atomic_write(PAGE) as file:
        file.write(text.encode())


if __name__ == "__main__":
    main()
