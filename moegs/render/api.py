"""rasterize() and splat(): check what is asked, choose a backend, hand back images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.container import Gaussians
from moegs.render import backends
from moegs.render.camera import Camera
from moegs.render.seen import as_seen
from moegs.render.types import TILE, RasterInputs, RasterOptions

_GROUPS_MAX = 256  # or as many as Gaussians: tags beyond are identities, and every one would be an image
_ALIKE = ("opacities", "sh", "quats", "scales", "covars", "anchors", "features", "probe")  # dtype and device, with means


@dataclass(frozen=True, eq=False)
class Render:
    """Images of one pass. With ``groups`` every image has a leading group dimension, as ``[K, h, w, 3]``.

    Attributes:
        color: RGB over the background, ``[h, w, 3]``.
        depth: accumulated camera z, ``sum_i T_i alpha_i z_i`` in world units, ``[h, w]``; see :func:`expected_depth`.
        alpha: accumulated opacity, ``[h, w]``.
        features: splatted feature channels over zero, ``[h, w, f]``, or None.
        radii: half width and height in pixels of every Gaussian's footprint, 0 where it was not drawn, ``[n, 2]``.
        backend: which backend ran.
    """

    color: Tensor
    depth: Tensor
    alpha: Tensor
    features: Tensor | None
    radii: Float[Tensor, "n 2"]
    backend: str


def rasterize(
    gaussians: Gaussians,
    camera: Camera,
    *,
    features: Float[Tensor, "n f"] | None = None,
    groups: Int[Tensor, "n"] | None = None,
    background: Tensor | Sequence[float] | None = None,
    options: RasterOptions | Sequence[RasterOptions] = RasterOptions(),
    probe: Float[Tensor, "n 2"] | None = None,
    absgrad: bool = False,
    tiles: Bool[Tensor, "*g rows columns"] | None = None,
    backend: str = "auto",
) -> Render:
    """Render Gaussians: colour, depth, alpha and any number of feature channels from one pass.

    Args:
        gaussians: what to draw. Quaternions are normalised here.
        camera: pinhole camera, OpenCV axes, pixel centres at +0.5.
        features: further channels to composite like colours (over zero).
        groups: integer tags 0…K-1; every group is composited as if it were alone, in the same pass. K is the number of
            ``options`` if a sequence is given, else one more than the largest tag.
        background: colour behind everything, ``[3]`` or one a group ``[K, 3]``; black by default.
        options: low-pass filter, compensation and clipping, one for all or one a group.
        probe: zeros ``[n, 2]`` that require grad: after ``backward()`` its ``.grad`` is the gradient with respect to the
            Gaussians' image positions in pixels, which densification accumulates.
        absgrad: the probe receives the sum over pixels of absolute gradients instead.
        tiles: which tiles of 16×16 pixels to draw, ``[ceil(h/16), ceil(w/16)]``, with groups ``[K, …]``; the others show
            the background.
        backend: ``"auto"``, ``"reference"``, ``"native"`` (CPU) or ``"gsplat"`` (CUDA).

    Returns:
        The images; :attr:`Render.backend` says which backend ran.

    Raises:
        ShapeError: tensors do not fit each other, lie on several devices, or hold what is not finite (on the CPU; a GPU
            would have to be waited for).
        ConfigError: groups and options disagree, or there are more groups than Gaussians.
        BackendError: the backend is unknown or cannot run here.

    Source: EWA splatting as in 3D Gaussian Splatting, with gsplat's thresholds.

    Example:
        >>> import torch
        >>> from moegs.gaussians import Gaussians
        >>> one = Gaussians(means=torch.tensor([[0.0, 0.0, 2.0]]), opacities=torch.tensor([0.5]),
        ...                 sh=torch.ones(1, 1, 3), quats=torch.tensor([[1.0, 0, 0, 0]]), scales=torch.full((1, 3), 0.1))
        >>> camera = Camera(torch.eye(4), torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), width=8, height=8)
        >>> render = rasterize(one, camera, backend="reference")
        >>> render.color.shape, round(render.alpha.max().item(), 3)
        (torch.Size([8, 8, 3]), 0.29)
    """
    _check(gaussians, features, groups, probe)
    _check_place(gaussians.means.device, groups=groups, tiles=tiles)
    tags = None if groups is None else _Tags.of(groups)
    all_options = _options_per_group(options, tags)
    camera = camera.like(gaussians.means)
    inputs = RasterInputs(
        gaussians=as_seen(gaussians, camera, all_options, groups),
        camera=camera,
        options=all_options,
        background=_background(background, len(all_options), gaussians.means),
        features=features,
        groups=None if tags is None else tags.values,
        probe=probe,
        absgrad=absgrad,
        tiles=_tiles(tiles, len(all_options), camera),
    )
    name = backends.choose_for(inputs) if backend == "auto" else backend
    out = backends.resolve(name)(inputs)
    return Render(out.color, out.depth, out.alpha, out.features, out.radii, name)


def splat(
    gaussians: Gaussians,
    camera: Camera,
    values: Float[Tensor, "n c"],
    *,
    background: float = 0.0,
    options: RasterOptions = RasterOptions(),
    backend: str = "auto",
) -> Float[Tensor, "h w c"]:
    """Weight splatting: composite any per-Gaussian values into the image with the Gaussians' own alphas.

    ``map(u) = sum_i T_i(u) alpha_i(u) values_i + background · T_end(u)`` (MoE-GS §3.2). Differentiable in the values and
    in everything that moves the Gaussians.

    Args:
        gaussians: what to composite with; colours are computed and thrown away.
        camera: where it is seen from.
        values: any channels, of the Gaussians' dtype and device.
        background: value behind everything, of all channels.
        options: of the rasteriser.
        backend: as for :func:`rasterize`.

    Raises:
        ShapeError: there is not one row of values a Gaussian, or tensors lie on several devices.
        BackendError: the backend is unknown or cannot run here.

    Example:
        >>> import torch
        >>> from moegs.gaussians import Gaussians
        >>> one = Gaussians(means=torch.tensor([[0.0, 0.0, 2.0]]), opacities=torch.tensor([0.5]),
        ...                 sh=torch.zeros(1, 1, 3), quats=torch.tensor([[1.0, 0, 0, 0]]), scales=torch.full((1, 3), 0.1))
        >>> camera = Camera(torch.eye(4), torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), width=8, height=8)
        >>> weights = torch.tensor([[2.0]], requires_grad=True)
        >>> splat(one, camera, weights, backend="reference").sum().backward()
        >>> round(weights.grad.item(), 3)  # the Gaussian's share of the image, in pixels
        1.426
    """
    _check_rows("values", values, len(gaussians))
    render = rasterize(gaussians, camera, features=values, options=options, backend=backend)
    assert render.features is not None  # as they were given
    if background == 0.0:
        return render.features
    return render.features + background * (1 - render.alpha)[..., None]


def shares(
    gaussians: Gaussians,
    camera: Camera,
    weights: Float[Tensor, "h w"] | None = None,
    *,
    options: RasterOptions = RasterOptions(),
    backend: str = "auto",
) -> Float[Tensor, "n"]:
    """How much of the image each Gaussian colours: ``sum_u weights(u) T_i(u) alpha_i(u)``, in pixels without weights.

    The transpose of :func:`splat`, by one backward pass through it; no gradient passes through the result.

    Args:
        gaussians: whose shares.
        camera: where they are seen from.
        weights: of the pixels, for instance an expert's gate; one everywhere by default.
        options: of the rasteriser.
        backend: as for :func:`rasterize`.

    Raises:
        ShapeError: the weights are not those of the camera's pixels.
        BackendError: the backend is unknown or cannot run here.

    Example:
        >>> import torch
        >>> from moegs.gaussians import Gaussians
        >>> two = Gaussians(means=torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 3.0]]), opacities=torch.tensor([0.9, 0.9]),
        ...                 sh=torch.zeros(2, 1, 3), quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
        ...                 scales=torch.full((2, 3), 0.1))
        >>> camera = Camera(torch.eye(4), torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), width=8, height=8)
        >>> front, behind = shares(two, camera, backend="reference").tolist()
        >>> front > 2 * behind
        True
    """
    if weights is not None and tuple(weights.shape) != (camera.height, camera.width):
        raise ShapeError(f"weights: expected {[camera.height, camera.width]}, got {list(weights.shape)}.")
    with torch.enable_grad():
        ones = gaussians.means.new_ones(len(gaussians), 1).requires_grad_()
        shown = splat(gaussians.detach(), camera, ones, options=options, backend=backend)
    given = torch.ones_like(shown) if weights is None else weights[..., None].to(shown)
    return torch.autograd.grad(shown, ones, given)[0][:, 0]


def expected_depth(render: Render, empty: float = 0.0) -> Tensor:
    """Depth per unit of alpha, ``depth / alpha``, camera z in world units, and ``empty`` where nothing was drawn.

    Shaped as ``render.depth``: ``[h, w]``, with groups ``[K, h, w]``.
    """
    drawn = render.alpha > 1e-6
    return torch.where(drawn, render.depth / torch.where(drawn, render.alpha, 1.0), empty)


def _check(gaussians: Gaussians, features: Tensor | None, groups: Tensor | None, probe: Tensor | None) -> None:
    n = len(gaussians)
    if features is not None:
        _check_rows("features", features, n)
    if probe is not None and tuple(probe.shape) != (n, 2):
        raise ShapeError(f"probe: expected [{n}, 2], got {list(probe.shape)}.")
    if groups is not None and (tuple(groups.shape) != (n,) or groups.is_floating_point()):
        raise ShapeError(f"groups: expected {n} integers, got {groups.dtype} of shape {list(groups.shape)}.")
    g, (device, dtype) = gaussians, (gaussians.means.device, gaussians.means.dtype)
    given = (g.opacities, g.sh, g.quats, g.scales, g.covars, g.anchors, features, probe)
    for name, value in zip(_ALIKE, given, strict=True):
        if value is not None and (value.dtype != dtype or value.device != device):
            raise ShapeError(
                f"{name}: expected {dtype} on {device} like means, got {value.dtype} on {value.device}."
            )


def _check_rows(name: str, values: Tensor, n: int) -> None:
    if values.ndim != 2 or values.shape[0] != n:
        raise ShapeError(f"{name}: expected [{n}, f], got {list(values.shape)}.")


def _check_place(device: torch.device, **given: Tensor | None) -> None:
    """A backend would refuse these too, but not by the names that they were given by."""
    for name, value in given.items():
        if value is not None and value.device != device:
            raise ShapeError(f"{name}: expected a tensor on {device} like means, got one on {value.device}.")


@dataclass(frozen=True, eq=False)
class _Tags:
    """Tags as backends take them, and the least and largest (0 and -1 where there are none)."""

    values: Int[Tensor, "n"]
    least: int
    largest: int

    @classmethod
    def of(cls, groups: Tensor) -> _Tags:
        if groups.numel() == 0:
            return cls(groups.to(torch.int32), 0, -1)
        if groups.device.type != "cpu":
            least, largest = groups.aminmax()
            return cls(groups.to(torch.int32), int(least), int(largest))
        # numpy, because torch would wake its workers for this, which then wait busily on the cores that the kernels need
        array = groups.numpy()
        return cls(torch.from_numpy(array.astype("int32", copy=False)), int(array.min()), int(array.max()))


def _options_per_group(options: RasterOptions | Sequence[RasterOptions], tags: _Tags | None) -> tuple[RasterOptions, ...]:
    if isinstance(options, RasterOptions):
        if tags is not None and tags.largest >= max(_GROUPS_MAX, len(tags.values)):
            raise ConfigError(
                f"groups: expected tags from 0 to K-1, got {tags.largest} for {len(tags.values)} Gaussians; number them with "
                "torch.unique(groups, return_inverse=True), or give one of options a group."
            )
        chosen = (options,) * (1 if tags is None else max(tags.largest + 1, 1))
    else:
        chosen = tuple(options)
    if tags is None and len(chosen) != 1:
        raise ConfigError(f"options: expected one without groups, got {len(chosen)}.")
    if tags is not None and (tags.least < 0 or tags.largest >= len(chosen)):
        raise ConfigError(f"groups: expected tags 0 to {len(chosen) - 1}, got {tags.least} to {tags.largest}.")
    return chosen


def _tiles(tiles: Tensor | None, n_groups: int, camera: Camera) -> Bool[Tensor, "g rows columns"] | None:
    if tiles is None:
        return None
    grid = (-(-camera.height // TILE), -(-camera.width // TILE))
    if tiles.dtype != torch.bool or tuple(tiles.shape) not in (grid, (n_groups, *grid)):
        raise ShapeError(
            f"tiles: expected bool of shape {list(grid)} or {[n_groups, *grid]}, got {tiles.dtype} {list(tiles.shape)}."
        )
    return tiles.expand(n_groups, *grid)


def _background(background: Tensor | Sequence[float] | None, n_groups: int, like: Tensor) -> Float[Tensor, "g 3"]:
    if background is None:
        return like.new_zeros(n_groups, 3)
    colors = torch.as_tensor(background, dtype=like.dtype, device=like.device)
    if tuple(colors.shape) not in ((3,), (n_groups, 3)):
        raise ShapeError(f"background: expected [3] or [{n_groups}, 3], got {list(colors.shape)}.")
    return colors.expand(n_groups, 3)
