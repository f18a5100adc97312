"""Options that shape a router and its training, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from moegs.route import RouterConfig
    from moegs.train import RouteConfig

F = TypeVar("F", bound=Callable[..., Any])
_SHAPE = ("temperature", "channels", "hidden", "inputs", "context")
_GATES = {*_SHAPE, "shared", "background", "temperatures", "initial_view", "lr_network"}
_WEIGHTS = {"channels", "initial_weight", "initial_view", "background", "lr_weights", "lr_time"}
_IDLE: dict[str, tuple[set[str], str]] = {  # settings that mean nothing for a kind of router, and why
    "volume": (_GATES, "a volume router merges the experts, it has no gates at pixels"),
    "pixel": (_WEIGHTS, "a pixel router has no weights on Gaussians"),
    "volume-pixel": (set(), ""),
}

_OPTIONS = (
    click.option(
        "--router", type=click.Choice(["volume-pixel", "pixel", "volume"]), default="volume-pixel", show_default=True,
        help="Weights on Gaussians refined at pixels, gates from pixels alone, or opacities of one merged scene.",
    ),
    click.option("--temperature", type=float, default=None, help="Divides the logits of the gates; 1 by default."),
    click.option(
        "--channels", type=click.IntRange(0), default=None,
        help="View channels a Gaussian, and as many time channels; 1 by default.",
    ),
    click.option(
        "--hidden", default=None, metavar="WIDTHS",
        help="Of the pixel network, separated by commas; 6,3 by default, 16,8 for pixel.",
    ),
    click.option(
        "--inputs", default=None, metavar="KINDS",
        help="Of the pixel network, some of rays, time, color, alpha; rays by default, for pixel the first three.",
    ),
    click.option("--context", type=click.IntRange(1), default=None, help="Side of the pixels it sees, odd; 1 by default."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="Any other setting, may be repeated: shared (one pixel network for all), background (behind splatted weights), "
        "initial_weight, initial_view, temperatures (first and last while it learns, as [1.0,0.01]), lr_weights, lr_time, "
        "lr_network, decay, lambda_dssim, checkpoint_every.",
    ),
)  # fmt: skip


def router_options(command: F) -> F:
    """Add the options that :func:`with_router` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_router(config: RouteConfig, options: dict[str, Any]) -> RouteConfig:
    """Settings of a router's training, with what the command line asks for.

    Raises:
        ConfigError: an option is unknown, of the wrong type, or means nothing for this kind of router.
    """
    from moegs.errors import ConfigError

    shape = {name: options[name] for name in _SHAPE if options[name] is not None}
    idle, why = _IDLE[options["router"]]
    asked = [f"--{name}" for name in shape if name in idle]
    asked += [f"--set {entry}" for entry in options["settings"] if entry.partition("=")[0] in idle]
    if asked:
        raise ConfigError(f"{asked[0]}: {why}.")
    shape |= {k: shape[k].split(",") for k in ("hidden", "inputs") if k in shape}
    if "hidden" in shape:
        shape["hidden"] = [_whole(width) for width in shape["hidden"]]
    return _with_settings(replace(config, router=_kind(config.router, options["router"])), shape, options["settings"])


def _kind(router: RouterConfig, kind: str) -> RouterConfig:
    from moegs.route import PixelRouter

    return PixelRouter([1]).config if kind == "pixel" else router


def _with_settings(config: RouteConfig, shape: dict[str, Any], settings: tuple[str, ...]) -> RouteConfig:
    from moegs.errors import ConfigError

    from .train import key_value

    given = shape | dict(key_value("--set", entry) for entry in settings)
    own = {f.name: getattr(config.router, f.name) for f in fields(config.router) if f.name != "kind"}
    training = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "router"}
    if unknown := sorted(set(given) - set(own) - set(training)):
        known = ", ".join(sorted({*own, *training}))
        raise ConfigError(f"--set: unknown setting {unknown[0]!r} of a router; it knows {known}.")
    typed = {key: _typed(key, value, (own | training)[key]) for key, value in given.items()}
    router = replace(config.router, **{k: v for k, v in typed.items() if k in own})
    return replace(config, router=router, **{k: v for k, v in typed.items() if k in training})


def _typed(key: str, value: Any, default: Any) -> Any:
    """A value in the type of the default: lists become tuples, whole numbers become fractional where those belong."""
    from moegs.errors import ConfigError

    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        wanted = "a list, as [1, 0.5]" if isinstance(default, tuple) else type(default).__name__
        raise ConfigError(f"{key}: expected {wanted}, got {value!r}.")
    return value


def _whole(text: str) -> int:
    from moegs.errors import ConfigError

    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--hidden: expected whole numbers separated by commas, got {text!r}.") from None
