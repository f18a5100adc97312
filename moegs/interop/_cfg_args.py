"""``cfg_args``: the text ``Namespace(key=value, ...)`` that all the originals write, read without evaluating it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moegs.errors import FormatError

SIZE_LIMIT = 1 << 20


@dataclass(frozen=True)
class Config:
    """What a ``cfg_args`` says, with getters that check types. Empty where there is no such file."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise self._wrong(key, "a number")
        return value

    def count(self, key: str, default: int) -> int:
        """An integer."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1 << 40:
            raise self._wrong(key, "an integer")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or False."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "True or False")
        return value

    def choice(self, key: str, default: str, allowed: Iterable[str]) -> str:
        """One of some words."""
        value, allowed = self.values.get(key, default), list(allowed)
        if value not in allowed:
            raise self._wrong(key, f"one of {', '.join(allowed)}")
        return value

    def refuse(self, **unsupported: Any) -> None:
        """Check that options which change the maths in ways not read here have their usual value."""
        for key, usual in unsupported.items():
            if self.values.get(key, usual) != usual:
                raise self._wrong(key, repr(usual))

    def _wrong(self, key: str, expected: str) -> FormatError:
        return FormatError(f"{self.path}: option {key!r}: expected {expected}, got {self.values.get(key)!r}.")


def read_config(path: str | Path) -> Config:
    """Parse a ``cfg_args`` file: keyword arguments whose values are Python literals.

    Raises:
        FormatError: the file cannot be read, is not such a text, or a value is anything but a literal.
    """
    path = Path(path)
    call = _parse(path, _text(path))
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Name)
        or call.func.id != "Namespace"
        or call.args
    ):
        raise FormatError(f"{path}: expected the text 'Namespace(key=value, ...)'.")
    values = {_name(path, k): _literal(path, k) for k in call.keywords}
    if len(values) != len(call.keywords):
        raise FormatError(f"{path}: an option appears more than once.")
    return Config(path, values)


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None
    if len(data) > SIZE_LIMIT:
        raise FormatError(f"{path}: longer than {SIZE_LIMIT} bytes; that is not a cfg_args file.")
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not UTF-8 text.") from None


def _parse(path: Path, text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FormatError(f"{path}: not of the form 'Namespace(key=value, ...)' ({type(error).__name__}).") from None


def _name(path: Path, keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise FormatError(f"{path}: '**' has no place in a cfg_args file.")
    return keyword.arg


def _literal(path: Path, keyword: ast.keyword) -> Any:
    try:
        return ast.literal_eval(keyword.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise FormatError(f"{path}: option {keyword.arg!r}: expected a plain value; code is not evaluated.") from None
