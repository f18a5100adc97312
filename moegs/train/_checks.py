"""What the settings of every kind of training have to fulfil."""

from __future__ import annotations

from typing import Any

from moegs.errors import ConfigError


def at_least_one(config: Any, *names: str) -> None:
    """Check fields that count steps.

    Raises:
        ConfigError: one is below 1; the message names it.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}: expected at least 1, got {getattr(config, name)}.")
