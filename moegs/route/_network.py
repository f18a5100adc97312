"""The network Φ of a router at all pixels: the native kernel where it applies, else torch's matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.render.native import network as native

Map = Float[Tensor, "_ _ _ _"]  # [k, h, w, f]; of one for all experts with k = 1, or for all pixels with h = w = 1
BAND = 16384  # pixels that pass through torch at a time: what they leave behind stays in the processor's cache


def network_logits(
    weighed: Float[Tensor, "k h w f"] | None,
    inputs: Sequence[Map],
    layers: Sequence[Float[Tensor, "m _ _ _ _"]],
    k: int,
    size: Sequence[int],
) -> Float[Tensor, "k h w"]:
    """``w_2D + Φ(w_dir_2D, w_time_2D, inputs)``, or Φ alone where no weights were splatted.

    Args:
        weighed: splatted weights, the base first.
        inputs: whatever else Φ sees, in the order of the first layer's inputs.
        layers: of one network for all experts (m = 1) or one each; only the first may see more than one pixel.
        k: number of experts.
        size: height and width.
    """
    if layers[0].shape[-1] == 1 and (found := _in_one_pass(weighed, inputs, layers, k)) is not None:
        return found
    return network_logits_by_torch(weighed, inputs, layers, k, size)


def _in_one_pass(
    weighed: Tensor | None, inputs: Sequence[Map], layers: Sequence[Tensor], k: int
) -> Float[Tensor, "k h w"] | None:
    """None where the kernel does not apply. What is the same at all pixels becomes the first layer's bias."""
    first, *deeper = [w[..., 0, 0] for w in layers]
    splatted = 0 if weighed is None else weighed.shape[-1] - 1
    splatted_block, *blocks = first.split([splatted, *(m.shape[-1] for m in inputs)], dim=2)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {"constant": [], "own": [], "common": []}
    for maps, block in zip(inputs, blocks, strict=True):
        constant = maps.shape[:3] == (1, 1, 1)
        seen["constant" if constant else "own" if len(maps) == k else "common"].append((maps, block))
    own = [*([] if weighed is None else [weighed]), *(m for m, _ in seen["own"])]
    common = [m[0] for m, _ in seen["common"]]
    if not native.usable(own, common, layers):
        return None
    bias = reduce(torch.add, [b @ m.flatten() for m, b in seen["constant"]], first.new_zeros(first.shape[:2]))
    columns = torch.cat([splatted_block, *(b for _, b in seen["own"] + seen["common"])], dim=2)
    shared = _joined(common) if common else None
    return native.pixel_network(_joined(own), shared, [columns, *deeper], bias, residual=weighed is not None)


def _joined(maps: Sequence[Tensor]) -> Tensor:
    """Side by side, without a copy of a single one."""
    return maps[0] if len(maps) == 1 else torch.cat([*maps], dim=-1)


def network_logits_by_torch(
    weighed: Float[Tensor, "k h w f"] | None,
    inputs: Sequence[Map],
    layers: Sequence[Float[Tensor, "m _ _ _ _"]],
    k: int,
    size: Sequence[int],
) -> Float[Tensor, "k h w"]:
    """Plain twin of :func:`network_logits`, for every device and precision."""
    found = _by_products([*inputs] if weighed is None else [weighed[..., 1:], *inputs], layers, k, size)
    return found if weighed is None else weighed[..., 0] + found


def _by_products(
    seen: Sequence[Map], layers: Sequence[Tensor], k: int, size: Sequence[int]
) -> Float[Tensor, "k h w"]:
    h, w = size
    if layers[0].shape[-1] > 1:
        return _deeper(_convolved(seen, layers[0], k, size), layers).view(-1, h, w)
    rows = max(BAND // w, 1)
    logits = []
    for top in range(0, h, rows):
        band = [m[:, top : top + rows] if m.shape[1] == h else m for m in seen]
        found = _deeper(_pointwise(band, layers[0], k), layers)
        logits.append(found.expand(-1, min(rows, h - top) * w))  # one value if no input differs between pixels
    return torch.cat(logits, dim=1).view(-1, h, w)


def _deeper(hidden: list[Float[Tensor, "f p"]], layers: Sequence[Tensor]) -> Float[Tensor, "k p"]:
    """All layers but the first, for each expert."""
    for weight in layers[1:]:
        own = weight[..., 0, 0].expand(len(hidden), -1, -1)
        hidden = [w @ torch.relu(x) for w, x in zip(own, hidden, strict=True)]
    return torch.stack([x[0] for x in hidden])


def _pointwise(seen: Sequence[Map], weight: Float[Tensor, "m o f 1 1"], k: int) -> list[Float[Tensor, "o p"]]:
    """The first layer of Φ at all pixels p, for each of k experts.

    Plain matrices with one column a pixel, because stacks of matrices as small as these are multiplied several times
    slower. What all experts see and weigh alike is multiplied once.
    """
    blocks = weight[..., 0, 0].split([maps.shape[-1] for maps in seen], dim=2)
    common: list[Tensor] = []
    own: list[tuple[Tensor, Tensor]] = []
    for maps, block in zip(seen, blocks, strict=True):
        columns = maps.flatten(1, 2).mT
        if len(columns) == len(block) == 1:
            common.append(block[0] @ columns[0])
        else:
            own.append((block.expand(k, -1, -1), columns.expand(k, -1, -1)))
    alike = [reduce(torch.add, common)] if common else []
    return [reduce(torch.add, [*(block[e] @ columns[e] for block, columns in own), *alike]) for e in range(k)]


def _convolved(
    seen: Sequence[Map], weight: Float[Tensor, "m o f s s"], k: int, size: Sequence[int]
) -> list[Float[Tensor, "o p"]]:
    """The same with a first layer that sees the pixels around."""
    x = torch.cat([maps.expand(k, *size, -1) for maps in seen], dim=-1).permute(0, 3, 1, 2)
    padded = torch.nn.functional.pad(x, [weight.shape[-1] // 2] * 4, mode="replicate")
    own = weight.expand(k, *weight.shape[1:])
    return [torch.nn.functional.conv2d(padded[e : e + 1], own[e])[0].flatten(1) for e in range(k)]
