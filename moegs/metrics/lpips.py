"""LPIPS, only with weights that the caller names: nothing is ever downloaded.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018. The trunks are plain torch
(torchvision is not needed), the calibration comes from the ``lpips`` package, the ImageNet weights from a file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from moegs.errors import BackendError, ConfigError, FormatError, ShapeError
from moegs.metrics.check import same_images

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# One stage a feature tap: the max-pool before it (kernel, 0 for none) and its convolutions as
# (torchvision layer index, stride, padding), each followed by a ReLU.
Stage = tuple[int, tuple[tuple[int, int, int], ...]]
TRUNKS: dict[str, tuple[Stage, ...]] = {
    "alex": ((0, ((0, 4, 2),)), (3, ((3, 1, 2),)), (3, ((6, 1, 1),)), (0, ((8, 1, 1),)), (0, ((10, 1, 1),))),
    "vgg": (
        (0, ((0, 1, 1), (2, 1, 1))),
        (2, ((5, 1, 1), (7, 1, 1))),
        (2, ((10, 1, 1), (12, 1, 1), (14, 1, 1))),
        (2, ((17, 1, 1), (19, 1, 1), (21, 1, 1))),
        (2, ((24, 1, 1), (26, 1, 1), (28, 1, 1))),
    ),
}


def load_lpips(
    weights: str | Path, network: str = "alex", *, unit_range: bool = False
) -> Callable[[Tensor, Tensor], float]:
    """Read an LPIPS distance (version 0.1) from local files.

    Args:
        weights: torchvision's ImageNet state dict of the trunk (``alexnet-owt-*.pth`` or ``vgg16-*.pth``).
        network: ``"alex"`` or ``"vgg"``.
        unit_range: feed [0, 1] as it is, like the lpipsPyTorch copy behind most published splatting tables, rather than
            [-1, 1] as the ``lpips`` package documents. The two are not comparable: say which you report.

    Returns:
        ``distance(image, target)`` for ``[h, w, 3]`` images in [0, 1]; lower is nearer.

    Raises:
        BackendError: the ``lpips`` extra is not installed.
        ConfigError: there is no such network.
        FormatError: the file is missing, is no state dict, or lacks a tensor.
    """
    if network not in TRUNKS:
        raise ConfigError(f"load_lpips: expected network 'alex' or 'vgg', got {network!r}.")
    trunk, calibration = _read(Path(weights)), _read(_calibration_file(network))
    needed = [
        f"features.{i}.{kind}" for _, convs in TRUNKS[network] for i, _, _ in convs for kind in ("weight", "bias")
    ]
    trunk, lins = (
        _pick(weights, trunk, needed),
        _pick("lpips", calibration, [f"lin{i}.model.1.weight" for i in range(5)]),
    )
    return lambda image, target: _distance(image, target, network, trunk, list(lins.values()), unit_range)


def _calibration_file(network: str) -> Path:
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise BackendError("LPIPS needs the 'lpips' extra: pip install 'moegs[lpips]'.")
    return Path(spec.origin).parent / "weights" / "v0.1" / f"{network}.pth"


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parsers meet in a damaged file, struct.error included
        raise FormatError(f"{path}: expected a torch state dict with LPIPS weights ({error}).") from None
    if not isinstance(state, dict):
        raise FormatError(f"{path}: expected a dict of tensors, got {type(state).__name__}.")
    return state


def _pick(source: str | Path, state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    if missing := [name for name in names if name not in state]:
        raise FormatError(f"{source}: LPIPS weights lack {missing[0]!r}; is this the right network?")
    return {name: state[name].float() for name in names}


@torch.no_grad()
def _distance(
    image: Float[Tensor, "h w 3"],
    target: Float[Tensor, "h w 3"],
    network: str,
    trunk: dict[str, Tensor],
    lins: list[Tensor],
    unit_range: bool,
) -> float:
    same_images("lpips", image, target)
    if image.shape[2] != 3 or min(image.shape[:2]) < 32:
        raise ShapeError(f"lpips: expected [h, w, 3] of at least 32x32 pixels, got {list(image.shape)}.")
    pair = torch.stack([image, target]).permute(0, 3, 1, 2).to("cpu", torch.float32)
    pair = pair if unit_range else 2 * pair - 1
    pair = (pair - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
    layers = (_layer(features, lin) for features, lin in zip(_features(pair, network, trunk), lins, strict=True))
    return float(sum(layers))


def _features(pair: Float[Tensor, "2 3 h w"], network: str, trunk: dict[str, Tensor]) -> list[Tensor]:
    taps, x = [], pair
    for pool, convolutions in TRUNKS[network]:
        x = max_pool2d(x, pool, stride=2) if pool else x
        for index, stride, padding in convolutions:
            weight, bias = trunk[f"features.{index}.weight"], trunk[f"features.{index}.bias"]
            x = conv2d(x, weight, bias, stride, padding).relu()
        taps.append(x)
    return taps


def _layer(features: Float[Tensor, "2 c h w"], lin: Float[Tensor, "1 c 1 1"]) -> Tensor:
    unit = features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
    return conv2d((unit[:1] - unit[1:]).square(), lin).mean()
