"""The one exception tree of moegs.

Every message says which file, field or argument is meant, what was found, what was expected, and what to do about it.
Catch :class:`MoegsError` to catch them all.
"""


class MoegsError(Exception):
    """Base of every error that moegs raises on purpose."""


class ShapeError(MoegsError, ValueError):
    """Tensors or arrays whose shapes, dtypes or devices do not fit together."""


class ConfigError(MoegsError, ValueError):
    """An option or argument that has no meaning, or that does not fit the rest."""


class DataError(MoegsError, ValueError):
    """A capture (video, poses, points) that is missing, damaged or inconsistent."""


class FormatError(MoegsError, ValueError):
    """A file that is not what its name or header says, or that is cut short."""


class BackendError(MoegsError, RuntimeError):
    """A rendering backend that is not available here or cannot do what was asked."""


class DivergenceError(MoegsError, ArithmeticError):
    """Training met a value that is not finite; the message names the tensor and the step."""
