"""Routers: what turns the Gaussians of several experts into per-pixel gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moegs.errors import ConfigError, ShapeError
from moegs.gaussians.container import Gaussians, concatenate
from moegs.render.api import rasterize
from moegs.render.camera import Camera, view_directions
from moegs.render.types import RasterOptions
from moegs.route._network import network_logits
from moegs.route.blend import gated_blend, softmax_gates


@dataclass(frozen=True)
class RouterConfig:
    """Shape of a router.

    Attributes:
        kind: ``"volume-pixel"`` (weights on Gaussians, refined at pixels), ``"pixel"`` (no weights on Gaussians) or
            ``"volume"`` (no network: gates from splatted weights alone). What the paper's table calls a volume router has
            no gates: it merges the experts into one scene, see :class:`moegs.route.VolumeRouter`.
        channels: view channels per Gaussian, and as many time channels; 1 in the paper.
        hidden: widths of the pixel network Φ; (6, 3) in the paper.
        inputs: what Φ sees besides the splatted channels: ``"rays"`` (paper), ``"time"``, ``"color"`` (the expert's own
            render and its distance from the experts' mean), ``"alpha"``.
        context: side of the square of pixels that Φ's first layer sees, odd; 1 in the paper.
        shared: one Φ for all experts (paper) or one each.
        temperature: divides the logits, in training and at test alike unless training has its own
            (:attr:`moegs.train.RouteConfig.temperatures`).
        background: value behind the splatted weights (the released code uses 1).
        initial_weight: start of the base weights (0.9 in the released code).
        initial_view: start of the view weights (0.9 in the released code); time weights start at 0.
    """

    kind: str = "volume-pixel"
    channels: int = 1
    hidden: tuple[int, ...] = (6, 3)
    inputs: tuple[str, ...] = ("rays",)
    context: int = 1
    shared: bool = True
    temperature: float = 1.0
    background: float = 0.0
    initial_weight: float = 0.0
    initial_view: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("volume-pixel", "pixel", "volume"):
            raise ConfigError(f"router kind: expected 'volume-pixel', 'pixel' or 'volume', got {self.kind!r}.")
        if unknown := set(self.inputs) - _INPUT_CHANNELS.keys():
            raise ConfigError(f"router inputs: expected some of {', '.join(_INPUT_CHANNELS)}, got {sorted(unknown)[0]!r}.")
        if self.context < 1 or self.context % 2 == 0:
            raise ConfigError(f"router context: expected an odd number of pixels, got {self.context}.")
        if self.channels < 0 or any(not isinstance(width, int) or width < 1 for width in self.hidden):
            raise ConfigError(
                f"router: expected channels >= 0 and hidden widths >= 1, got {self.channels} and {list(self.hidden)}."
            )
        if self.kind != "volume" and not self.inputs and not (self.kind == "volume-pixel" and self.channels):
            raise ConfigError("router inputs: expected at least one, for a pixel network that sees no other channels.")
        if self.kind == "pixel" and self.shared and not {"color", "alpha"} & set(self.inputs):
            raise ConfigError(
                f"router inputs: one network for all experts tells none apart by {', '.join(self.inputs)}; add 'color' or "
                "'alpha', or give each its own (shared=False)."
            )
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"router temperature: expected a number above 0, got {self.temperature}.")
        for name in ("background", "initial_weight", "initial_view"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"router {name}: expected a finite number, got {getattr(self, name)}.")


_INPUT_CHANNELS = {"rays": 6, "time": 1, "color": 6, "alpha": 1}


class VolumePixelRouter(nn.Module):
    """The volume-aware pixel router of MoE-GS (§3.2), for Gaussians of any origin.

    Gaussian i carries ``[w, w_dir, t·w_time]``. They are splatted with the expert's own alphas, and
    ``R_k(u) = w_2D(u) + Φ(w_dir_2D(u), w_time_2D(u), r(u))`` with ray map r; gates are the softmax of R over the experts.

    Args:
        counts: number of Gaussians of each expert, in order.
        config: sizes and options; the default is the paper's router.
        centre: world point that ray origins are measured from.
        extent: world length that they are divided by.
        generator: draws the pixel network's first weights; torch's own by default.

    Raises:
        ConfigError: an argument has no meaning.

    Example:
        >>> router = VolumePixelRouter([1, 1])
        >>> one = Gaussians(means=torch.tensor([[0.0, 0, 2]]), opacities=torch.tensor([0.9]), sh=torch.zeros(1, 1, 3),
        ...                 quats=torch.tensor([[1.0, 0, 0, 0]]), scales=torch.full((1, 3), 0.5))
        >>> camera = Camera(torch.eye(4), torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), width=8, height=8)
        >>> router([one, one], camera, t=0.5).shape
        torch.Size([2, 8, 8])
    """

    centre: Tensor
    extent: Tensor

    def __init__(
        self,
        counts: Sequence[int],
        config: RouterConfig = RouterConfig(),
        centre: Sequence[float] = (0.0, 0.0, 0.0),
        extent: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.counts, self.config = checked_counts(counts), config
        place = [float(x) for x in centre]
        if len(place) != 3 or not all(map(math.isfinite, place)) or not 0 < float(extent) < math.inf:
            raise ConfigError(
                f"router: expected a centre of three numbers and an extent above 0, got {place} and {float(extent)}."
            )
        self.register_buffer("centre", torch.tensor(place, dtype=torch.float32))
        self.register_buffer("extent", torch.tensor(float(extent)))
        total = sum(self.counts) if config.kind != "pixel" else 0
        c = config.channels if config.kind == "volume-pixel" else 0
        self.base = nn.Parameter(torch.full((total,), float(config.initial_weight)))
        self.view = nn.Parameter(torch.full((total, c), float(config.initial_view)))
        self.time = nn.Parameter(torch.zeros(total, c))
        self.layers = nn.ParameterList(self._make_layers(generator) if config.kind != "volume" else [])

    def _make_layers(self, generator: torch.Generator | None) -> list[Tensor]:
        """Weights of Φ, ``[experts or 1, out, in, k, k]``, uniform in ±1/sqrt(fan-in)."""
        c = self.config
        seen = (2 * c.channels if c.kind == "volume-pixel" else 0) + sum(_INPUT_CHANNELS[i] for i in c.inputs)
        widths, copies = [seen, *c.hidden, 1], 1 if c.shared else len(self.counts)
        sides = [c.context] + [1] * (len(widths) - 2)
        layers = []
        for before, after, side in zip(widths[:-1], widths[1:], sides, strict=True):
            bound = (before * side * side) ** -0.5
            layers.append((torch.rand(copies, after, before, side, side, generator=generator) * 2 - 1) * bound)
        return layers

    def features(self, t: float) -> Float[Tensor, "n f"] | None:
        """Channels to splat for the Gaussians of all experts in order: base, view, t·time; None without weights."""
        if self.config.kind == "pixel":
            return None
        return torch.cat([self.base[:, None], self.view, t * self.time], dim=-1)

    def logits(
        self,
        maps: Float[Tensor, "k h w f"] | None,
        images: Float[Tensor, "k h w 3"],
        alphas: Float[Tensor, "k h w"],
        camera: Camera,
        t: float,
    ) -> Float[Tensor, "k h w"]:
        """Unnormalised preference for each expert at every pixel."""
        if maps is not None and self.config.background:
            maps = maps + self.config.background * (1 - alphas)[..., None]
        if maps is not None and self.config.kind == "volume":
            return maps[..., 0]
        inputs = [m for name in self.config.inputs for m in self._inputs(name, images, alphas, camera, t)]
        return network_logits(maps, inputs, list(self.layers), len(self.counts), images.shape[1:3])

    def _inputs(self, name: str, images: Tensor, alphas: Tensor, camera: Camera, t: float) -> list[Float[Tensor, "_ _ _ _"]]:
        """Channels of one kind: maps of each expert or of one for all, or one pixel for the whole image."""
        if name == "rays":
            camera = camera.like(images)
            origin = (camera.centre - self.centre) / self.extent
            return [origin.expand(1, 1, 1, 3), view_directions(camera)[None]]
        if name == "time":
            return [images.new_full((1, 1, 1, 1), t)]
        if name == "alpha":
            return [alphas[..., None]]
        return [images, images - images.mean(0, keepdim=True)]

    def gates(
        self, maps: Tensor | None, images: Tensor, alphas: Tensor, camera: Camera, t: float,
        temperature: float | None = None,
    ) -> Float[Tensor, "k h w"]:  # fmt: skip
        """Softmax of :meth:`logits` over the experts, at the temperature of the configuration unless one is given."""
        logits = self.logits(maps, images, alphas, camera, t)
        return softmax_gates(logits, self.config.temperature if temperature is None else temperature)

    def blend(
        self, maps: Tensor | None, images: Tensor, alphas: Tensor, camera: Camera, t: float,
        temperature: float | None = None,
    ) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "k h w"]]:  # fmt: skip
        """The images mixed by :meth:`gates`, and the gates, which together cost less than one after the other."""
        logits = self.logits(maps, images, alphas, camera, t)
        return gated_blend(images, logits, self.config.temperature if temperature is None else temperature)

    def forward(
        self,
        gaussians: Sequence[Gaussians],
        camera: Camera,
        t: float,
        *,
        options: RasterOptions | Sequence[RasterOptions] = RasterOptions(),
        background: Float[Tensor, "3"] | Float[Tensor, "k 3"] | None = None,
        backend: str = "auto",
    ) -> Float[Tensor, "k h w"]:
        """Gates of the experts' Gaussians at clip-normalised time t, seen from a camera.

        Args:
            gaussians: those of each expert, in order.
            camera: where they are seen from.
            t: clip-normalised time.
            options: of the rasteriser, one for all experts or one each.
            background: colour behind all experts or behind each, black by default; matters to a router that sees colours.
            backend: rasteriser.

        Raises:
            ShapeError: the numbers of Gaussians are not those that the router was made for, or they are of another dtype
                or on another device than it.
            ConfigError: the router sees colours, and an expert's are made by a decoder of splatted features, which only
                :func:`moegs.route.render_mixture` knows.
        """
        if "color" in self.config.inputs and any(g.features is not None for g in gaussians):
            raise ConfigError("router: sees colours, which a decoder makes for these Gaussians; use render_mixture.")
        merged = union(gaussians, self.counts)
        own, theirs = ((x.dtype, x.device) for x in (self.extent, merged.means))
        if own != theirs:
            raise ShapeError(f"router: is {own[0]} on {own[1]}, Gaussians {theirs[0]} on {theirs[1]}; move one with .to().")
        per_expert = (options,) * len(gaussians) if isinstance(options, RasterOptions) else tuple(options)
        render = rasterize(
            merged, camera, features=self.features(t), groups=group_tags(self.counts).to(merged.means.device),
            options=per_expert, background=background, backend=backend,
        )  # fmt: skip
        return self.gates(render.features, render.color, render.alpha, camera, t)

    def copied(self, target: torch.device | torch.dtype | str | None = None) -> VolumePixelRouter:
        """Another router with the same weights, on a device or of a dtype; None for this one's."""
        copy = router_from_config(self.to_config()).to(self.extent.device, self.extent.dtype)
        copy.load_state_dict(self.state_dict())
        return copy if target is None else copy.to(target)

    def to_config(self) -> dict[str, Any]:
        """What :func:`router_from_config` needs to rebuild the module, JSON-ready."""
        return {"counts": list(self.counts), "config": asdict(self.config)}


def PixelRouter(  # noqa: N802 - reads as a class
    counts: Sequence[int],
    *,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    extent: float = 1.0,
    generator: torch.Generator | None = None,
    **options: Any,
) -> VolumePixelRouter:
    """A router without weights on Gaussians: Φ on rays, time and the experts' colours (MoE-GS table 4, 2D only).

    Arguments are those of :class:`VolumePixelRouter`, ``options`` those of :class:`RouterConfig`.
    """
    config = RouterConfig(kind="pixel", **({"inputs": ("rays", "time", "color"), "hidden": (16, 8)} | options))
    return VolumePixelRouter(counts, config, centre, extent, generator)


def router_from_config(saved: dict[str, Any]) -> VolumePixelRouter:
    """Rebuild an (untrained) router from :meth:`VolumePixelRouter.to_config`; draws nothing from torch's global generator."""
    config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["config"].items()}
    return VolumePixelRouter(saved["counts"], RouterConfig(**config), generator=torch.Generator().manual_seed(0))


def checked_counts(counts: Sequence[int]) -> tuple[int, ...]:
    """Numbers of Gaussians, one an expert.

    Raises:
        ConfigError: there are none, or one is no number of things.
    """
    if len(counts) < 1 or any(not isinstance(n, Integral) or n < 0 for n in counts):
        raise ConfigError(f"counts: expected one number of Gaussians an expert, got {list(counts)}.")
    return tuple(int(n) for n in counts)


def union(gaussians: Sequence[Gaussians], counts: tuple[int, ...]) -> Gaussians:
    """The experts' Gaussians one after the other, without features.

    Raises:
        ShapeError: they are not as many as the router was made for.
    """
    if tuple(len(g) for g in gaussians) != counts:
        raise ShapeError(f"router: expected {list(counts)} Gaussians, got {[len(g) for g in gaussians]}.")
    return concatenate([replace(g, features=None) for g in gaussians])


def group_tags(counts: Sequence[int]) -> Tensor:
    """Expert tag of every Gaussian of the concatenated experts, int32."""
    return torch.repeat_interleave(torch.arange(len(counts), dtype=torch.int32), torch.tensor(list(counts)))
