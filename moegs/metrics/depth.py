"""How right the geometry is, against true depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class DepthScores:
    """Errors of depth over the pixels that are covered; not a number where none is.

    Attributes:
        abs_rel: mean of ``|d - d*| / d*``.
        rmse: root of the mean squared error, world units.
        delta1: fraction of pixels with ``max(d / d*, d* / d) < 1.25``.
        covered: fraction of the pixels of known depth that count, because the render is opaque enough there.
    """

    abs_rel: float
    rmse: float
    delta1: float
    covered: float

    def to_json(self) -> dict[str, float]:
        """All scores by name."""
        return asdict(self)


def depth_scores(
    depth: Float[Tensor, "h w"], alpha: Float[Tensor, "h w"], truth: Float[Tensor, "h w"], *, opaque: float = 0.5
) -> DepthScores:
    """Score the expected depth ``depth / alpha`` of one render.

    Args:
        depth: accumulated camera z, ``sum_i T_i alpha_i z_i``, world units.
        alpha: accumulated opacity.
        truth: camera z, world units; pixels that are not finite or not positive are left out.
        opaque: pixels of less alpha do not count as covered.

    Raises:
        ShapeError: the maps differ in size.
        ConfigError: the true depth of no pixel is known.

    >>> import torch
    >>> two = torch.tensor([[2.0, 2.0]])
    >>> depth_scores(two * 0.8, torch.full((1, 2), 0.8), torch.tensor([[2.0, 4.0]]))
    DepthScores(abs_rel=0.25, rmse=1.4142135..., delta1=0.5, covered=1.0)
    """
    if not depth.shape == alpha.shape == truth.shape:
        raise ShapeError(
            f"depth_scores: depth {list(depth.shape)}, alpha {list(alpha.shape)}, truth {list(truth.shape)} differ."
        )
    known = torch.isfinite(truth) & (truth > 0)
    counted = known & (alpha > opaque)
    if not bool(known.any()):
        raise ConfigError("depth_scores: truth has no finite positive pixel.")
    expected, true = (depth[counted] / alpha[counted]).double(), truth[counted].double()
    ratio = torch.maximum(expected / true, true / expected.clamp_min(1e-12))
    return DepthScores(
        abs_rel=float(((expected - true).abs() / true).mean()),
        rmse=float((expected - true).square().mean().sqrt()),
        delta1=float((ratio < 1.25).double().mean()),
        covered=float(counted.sum() / known.sum()),
    )


def summarise_depth(frames: Sequence[DepthScores]) -> DepthScores:
    """Arithmetic mean of each score over frames; frames without a covered pixel have a share in ``covered`` alone.

    Raises:
        ConfigError: there are no frames.
    """
    if not frames:
        raise ConfigError("summarise_depth: expected the scores of at least one frame, got none.")
    columns = {name: torch.tensor([getattr(f, name) for f in frames]) for name in DepthScores.__dataclass_fields__}
    return DepthScores(**{name: float(column.double().nanmean()) for name, column in columns.items()})
