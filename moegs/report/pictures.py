"""Numbers as pictures: heat-maps of gates and errors, coloured depth, contact sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from moegs.errors import ShapeError

Picture = UInt8[np.ndarray, "h w 3"]

# Dark blue over violet and orange to light yellow: lightness rises evenly, so that it also reads in grey.
_HEAT = (
    (0.00, 0.02, 0.11), (0.16, 0.06, 0.38), (0.40, 0.10, 0.46), (0.64, 0.18, 0.41),
    (0.85, 0.31, 0.28), (0.97, 0.53, 0.15), (0.99, 0.78, 0.30), (0.99, 0.98, 0.74),
)  # fmt: skip
INK, PAPER = (32, 32, 32), (255, 255, 255)


def to_uint8(image: Float[Tensor, "h w 3"]) -> Picture:
    """Clamp to [0, 1] and round to eight bits.

    Example:
        >>> to_uint8(torch.tensor([[[0.0, 0.5, 1.5]]]))
        array([[[  0, 128, 255]]], dtype=uint8)
    """
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def heat(values: Float[Tensor, "h w"], low: float = 0.0, high: float = 1.0) -> Float[Tensor, "h w 3"]:
    """Colours for numbers: ``low`` and less is nearly black, ``high`` and more light yellow."""
    table = torch.tensor(_HEAT)
    position = ((values.detach().cpu().float() - low) / max(high - low, 1e-12)).clamp(0, 1) * (len(table) - 1)
    below = position.long().clamp_max(len(table) - 2)
    share = (position - below)[..., None]
    return torch.lerp(table[below], table[below + 1], share)


def depth_colors(
    depth: Float[Tensor, "h w"], near: float | None = None, far: float | None = None
) -> Float[Tensor, "h w 3"]:
    """Colours for depth, near is bright: even steps in inverse depth, as a stereo camera would see it.

    Pixels with depth 0 (nothing there) are black. ``near`` and ``far`` default to the 2nd and 98th percentile.
    """
    drawn = depth > 0
    if not bool(drawn.any()):
        return torch.zeros(*depth.shape, 3)
    inverse = torch.where(drawn, 1 / depth.clamp_min(1e-12), 0.0).detach().cpu().float()
    seen = inverse[drawn.cpu()].numpy()
    high = float(np.quantile(seen, 0.98)) if near is None else 1 / near
    low = float(np.quantile(seen, 0.02)) if far is None else 1 / far
    return heat(inverse, low, high) * drawn.cpu()[..., None]


def error_map(
    image: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], full_scale: float = 0.25
) -> Float[Tensor, "h w 3"]:
    """Mean absolute error of the channels as a heat-map; ``full_scale`` is the error of the brightest colour.

    Raises:
        ShapeError: the images differ in size.
    """
    if image.shape != target.shape:
        raise ShapeError(f"error_map: image {list(image.shape)} and target {list(target.shape)} differ in shape.")
    return heat((image.clamp(0, 1) - target).abs().mean(-1), 0.0, full_scale)


def contact_sheet(rows: Sequence[Sequence[tuple[str, Picture]]], gap: int = 6) -> Picture:
    """Lay captioned pictures out in rows on white; pictures may differ in size, rows in length.

    Raises:
        ShapeError: there is no picture.
    """
    if not any(len(row) for row in rows):
        raise ShapeError("contact_sheet: expected at least one picture, got none.")
    strips = [_strip([_captioned(*cell) for cell in row], gap) for row in rows if len(row)]
    sheet = Image.new("RGB", (max(s.width for s in strips) + gap, sum(s.height for s in strips) + gap), PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return np.asarray(sheet)


def _strip(cells: Sequence[Image.Image], gap: int) -> Image.Image:
    strip = Image.new("RGB", (sum(c.width + gap for c in cells), max(c.height for c in cells) + gap), PAPER)
    left = gap
    for cell in cells:
        strip.paste(cell, (left, gap))
        left += cell.width + gap
    return strip


def _captioned(caption: str, picture: Picture) -> Image.Image:
    height, width = picture.shape[:2]
    font = ImageFont.load_default(size=max(9, min(16, width // 16)))
    line = round(font.getbbox("Åg")[3])
    cell = Image.new("RGB", (width, height + line + 2), PAPER)
    ImageDraw.Draw(cell).text((1, 0), caption, fill=INK, font=font)
    cell.paste(Image.fromarray(picture), (0, line + 2))
    return cell
