"""LPIPS needs its extra and explicit weights; with them it is the formula of the paper."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from moegs.errors import BackendError, ConfigError, FormatError, ShapeError
from moegs.metrics import load_lpips
from moegs.metrics import lpips as module

WIDTHS = {
    "alex": {0: (3, 8, 11), 3: (8, 12, 5), 6: (12, 10, 3), 8: (10, 9, 3), 10: (9, 7, 3)},
    "vgg": {i: (3 if i == 0 else 4, 4, 3) for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)},
}


@pytest.fixture(params=["alex", "vgg"])
def network(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A thin random trunk with its calibration, in files laid out as the real ones are."""
    torch.manual_seed(0)
    widths = WIDTHS[request.param]
    trunk = {f"features.{i}.weight": 0.2 * torch.randn(o, c, k, k) for i, (c, o, k) in widths.items()}
    trunk |= {f"features.{i}.bias": 0.1 * torch.randn(o) for i, (_, o, _) in widths.items()}
    tapped = [widths[convs[-1][0]][1] for _, convs in module.TRUNKS[request.param]]
    torch.save(trunk, tmp_path / "trunk.pth")
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(tapped)}, tmp_path / "lin.pth")
    monkeypatch.setattr(module, "_calibration_file", lambda network: tmp_path / "lin.pth")
    return request.param, tmp_path


@torch.no_grad()
def expected(network: str, folder: Path, image: torch.Tensor, target: torch.Tensor) -> float:
    """The distance again, with nn modules and an explicit sum over taps."""
    trunk, lins = torch.load(folder / "trunk.pth"), torch.load(folder / "lin.pth")
    layers: list[torch.nn.Module] = []
    for pool, convolutions in module.TRUNKS[network]:
        stage = [torch.nn.MaxPool2d(pool, 2)] if pool else []
        for index, stride, padding in convolutions:
            weight = trunk[f"features.{index}.weight"]
            conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding)
            conv.weight.data, conv.bias.data = weight, trunk[f"features.{index}.bias"]
            stage += [conv, torch.nn.ReLU()]
        layers.append(torch.nn.Sequential(*stage))
    total, pair = 0.0, [image, target]
    pair = [((2 * v - 1).movedim(-1, 0)[None] - _column(module.SHIFT)) / _column(module.SCALE) for v in pair]
    for i, layer in enumerate(layers):
        pair = [layer(v) for v in pair]
        x, y = (v / (torch.linalg.vector_norm(v, dim=1, keepdim=True) + 1e-10) for v in pair)
        total += float(((x - y) ** 2 * lins[f"lin{i}.model.1.weight"]).sum(1).mean())
    return total


def _column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


def test_distance_is_the_papers_formula(network: tuple[str, Path]) -> None:
    name, folder = network
    image, target = torch.rand(64, 48, 3), torch.rand(64, 48, 3)
    distance = load_lpips(folder / "trunk.pth", name)
    assert distance(image, image) == 0.0
    assert distance(image, target) == pytest.approx(expected(name, folder, image, target), rel=1e-4)
    assert distance(image, target) != load_lpips(folder / "trunk.pth", name, unit_range=True)(image, target)


def test_errors_name_what_is_wrong(network: tuple[str, Path]) -> None:
    name, folder = network
    with pytest.raises(ConfigError, match="squeeze"):
        load_lpips(folder / "trunk.pth", "squeeze")
    with pytest.raises(FormatError, match=r"absent\.pth"):
        load_lpips(folder / "absent.pth", name)
    (folder / "junk.pth").write_bytes(b"junk")
    with pytest.raises(FormatError, match=r"junk\.pth"):
        load_lpips(folder / "junk.pth", name)
    with pytest.raises(FormatError, match=r"features\.0\.weight"):
        load_lpips(folder / "lin.pth", name)
    with pytest.raises(ShapeError, match="32x32"):
        load_lpips(folder / "trunk.pth", name)(torch.zeros(8, 8, 3), torch.zeros(8, 8, 3))


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    torch.save({}, tmp_path / "trunk.pth")
    with pytest.raises(BackendError, match=r"moegs\[lpips\]"):
        load_lpips(tmp_path / "trunk.pth")
