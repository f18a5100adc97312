"""What the settings of every kind of training have to fulfil."""

from __future__ import annotations

import math
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


def at_least_zero(config: Any, *names: str) -> None:
    """Check fields that are rates.

    Raises:
        ConfigError: one is negative or not finite; the message names it.
    """
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ConfigError(f"{name}: expected a number of at least 0, got {getattr(config, name)}.")
