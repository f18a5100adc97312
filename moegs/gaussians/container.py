"""The Gaussians of a scene at one instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Activated, world-space Gaussians at one instant.

    The shape of a Gaussian is given either by ``quats`` and ``scales`` or by ``covars``: motion priors that condition a
    4D Gaussian on time (4DGS) produce a covariance, which needs no round trip through an eigendecomposition. A set that
    was joined from both kinds has all three, and ``by_covar`` says which counts, so that every part looks as it did alone.

    Attributes:
        means: centres in world units, ``[n, 3]``.
        opacities: peak opacity in [0, 1], ``[n]``.
        sh: spherical-harmonic coefficients, DC first, ``[n, (degree + 1)**2, 3]`` (INRIA convention: colour is
            ``max(sum_i sh_i Y_i(dir) + 0.5, 0)``).
        quats: unit quaternions, wxyz, ``[n, 4]``, or None with ``covars``.
        scales: standard deviations along the principal axes in world units, > 0, ``[n, 3]``, or None with ``covars``.
        covars: symmetric covariances in world units squared, ``[n, 3, 3]``, or None.
        features: further channels to splat with the colours, ``[n, f]``, or None (SpacetimeGaussians' full model).
        anchors: points that a camera looks at to find a Gaussian's colour, ``[n, 3]``, or None for ``means`` (4DGS has
            those where Gaussians are at their own time).
        by_covar: with ``quats``, ``scales`` and ``covars``, the rows that have the shape of their covariance, ``[n]`` bool.

    Raises:
        ShapeError: a field has the wrong shape, or the shape of the Gaussians is given twice or not at all.
    """

    means: Float[Tensor, "n 3"]
    opacities: Float[Tensor, "n"]
    sh: Float[Tensor, "n k 3"]
    quats: Float[Tensor, "n 4"] | None = None
    scales: Float[Tensor, "n 3"] | None = None
    covars: Float[Tensor, "n 3 3"] | None = None
    features: Float[Tensor, "n f"] | None = None
    anchors: Float[Tensor, "n 3"] | None = None
    by_covar: Bool[Tensor, "n"] | None = None

    def __post_init__(self) -> None:
        n = self.means.shape[0] if self.means.ndim else -1
        _expect("means", self.means, (n, 3))
        _expect("opacities", self.opacities, (n,))
        _expect_sh(self.sh, n)
        kinds = tuple(v is not None for v in (self.quats, self.scales, self.covars, self.by_covar))
        if kinds not in ((True, True, False, False), (False, False, True, False), (True, True, True, True)):
            raise ShapeError(
                "Gaussians need either quats and scales or covars: give exactly one of the two, or both with by_covar."
            )
        for name, shape in (("quats", (n, 4)), ("scales", (n, 3)), ("covars", (n, 3, 3)), ("anchors", (n, 3))):
            if (value := getattr(self, name)) is not None:
                _expect(name, value, shape)
        if self.by_covar is not None and (tuple(self.by_covar.shape), self.by_covar.dtype) != ((n,), torch.bool):
            found = f"{self.by_covar.dtype} of shape {list(self.by_covar.shape)}"
            raise ShapeError(f"Gaussians.by_covar: expected bool of shape [{n}], got {found}.")
        if self.features is not None and (self.features.ndim != 2 or self.features.shape[0] != n):
            raise ShapeError(f"features: expected [{n}, f], got {list(self.features.shape)}.")

    def __len__(self) -> int:
        return self.means.shape[0]

    def __repr__(self) -> str:
        kind = f"{self.means.dtype}".removeprefix("torch.")
        return f"Gaussians({len(self):,}, harmonics of degree {self.sh_degree}, {kind} on {self.means.device})"

    def __getitem__(self, index: Bool[Tensor, "n"] | Int[Tensor, "m"] | slice) -> Gaussians:
        """Select Gaussians with a mask, an index tensor or a slice."""
        return self._map(lambda x: x[index])

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return round(self.sh.shape[1] ** 0.5) - 1

    def to(self, target: torch.device | torch.dtype | str) -> Gaussians:
        """Move every tensor to a device or cast it to a dtype."""
        mask = self.by_covar
        moved = self._map(lambda x: x.to(target) if x is not mask else x)
        return moved if mask is None else replace(moved, by_covar=mask.to(moved.means.device))

    def detach(self) -> Gaussians:
        """The same values, cut from the autograd graph."""
        return self._map(Tensor.detach)

    def _map(self, fn) -> Gaussians:
        moved = {f.name: fn(v) for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return replace(self, **moved)


def concatenate(parts: Sequence[Gaussians]) -> Gaussians:
    """Join sets of Gaussians in order.

    Spherical harmonics of unequal degree are padded with zero coefficients. When some parts carry covariances and others
    quaternions and scales, the result carries both, each row as it was. Features are joined as they are.

    Raises:
        ShapeError: no parts were given, only some carry features or not as many, or parts differ in dtype or device.
    """
    if not parts:
        raise ShapeError("concatenate: expected at least one set of Gaussians, got none.")
    k = max(p.sh.shape[1] for p in parts)
    shape = _joint_shape(parts)
    with_features = [p.features for p in parts if p.features is not None]
    if with_features and len(with_features) != len(parts):
        raise ShapeError("concatenate: some parts carry features and others do not; drop or add them first.")
    if len(widths := {f.shape[1] for f in with_features}) > 1:
        raise ShapeError(f"concatenate: expected as many features in every part, got {sorted(widths)}.")
    if len(kinds := {f"{p.means.dtype} on {p.means.device}" for p in parts}) > 1:
        raise ShapeError(f"concatenate: expected parts of one dtype on one device, got {' and '.join(sorted(kinds))}.")
    return Gaussians(
        means=torch.cat([p.means for p in parts]),
        opacities=torch.cat([p.opacities for p in parts]),
        sh=torch.cat([_padded(p.sh, k) for p in parts]),
        features=torch.cat(with_features) if with_features else None,
        anchors=None if all(p.anchors is None for p in parts) else torch.cat([_anchors(p) for p in parts]),
        **shape,
    )


def _padded(sh: Float[Tensor, "n j 3"], k: int) -> Float[Tensor, "n k 3"]:
    """With zeros for the coefficients that are missing; padding by none would still be a copy."""
    return sh if sh.shape[1] == k else torch.nn.functional.pad(sh, (0, 0, 0, k - sh.shape[1]))


def _anchors(gaussians: Gaussians) -> Tensor:
    return gaussians.means if gaussians.anchors is None else gaussians.anchors


def _joint_shape(parts: Sequence[Gaussians]) -> dict[str, Tensor]:
    names = [name for name in ("quats", "scales", "covars") if any(getattr(p, name) is not None for p in parts)]
    joint = {name: torch.cat([_or_filler(p, name) for p in parts]) for name in names}
    return joint if len(names) < 3 else joint | {"by_covar": torch.cat([_or_filler(p, "by_covar") for p in parts])}


def _or_filler(gaussians: Gaussians, name: str) -> Tensor:
    """A field, or harmless values for a part whose shape is given otherwise."""
    if (value := getattr(gaussians, name)) is not None:
        return value
    n, like = len(gaussians), gaussians.means
    if name == "quats":
        return like.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(n, 4)
    if name == "by_covar":
        return torch.full((n,), gaussians.covars is not None, device=like.device)
    return like.new_ones(n, 3) if name == "scales" else like.new_zeros(n, 3, 3)


def covariances(gaussians: Gaussians) -> Float[Tensor, "n 3 3"]:
    """World-space covariances, computed from quaternions and scales where the set does not carry them."""
    from moegs.gaussians.quaternions import covariance

    if gaussians.quats is None or gaussians.scales is None:
        assert gaussians.covars is not None  # one of the two is always there
        return gaussians.covars
    turned = covariance(gaussians.quats, gaussians.scales)
    if gaussians.covars is None or gaussians.by_covar is None:
        return turned
    return torch.where(gaussians.by_covar[:, None, None], gaussians.covars, turned)


def axes(gaussians: Gaussians) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 3"]]:
    """Quaternions and scales, found in float64 from the covariances where the set carries those."""
    from moegs.gaussians.quaternions import decompose

    if gaussians.quats is not None and gaussians.scales is not None and gaussians.covars is None:
        return gaussians.quats, gaussians.scales
    return decompose(covariances(gaussians).double())


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ShapeError(f"Gaussians.{name}: expected shape {list(shape)}, got {list(value.shape)}.")


def _expect_sh(sh: Tensor, n: int) -> None:
    if sh.ndim != 3 or sh.shape[0] != n or sh.shape[2] != 3 or sh.shape[1] not in (1, 4, 9, 16):
        raise ShapeError(f"Gaussians.sh: expected [{n}, 1|4|9|16, 3], got {list(sh.shape)}.")
