"""What can be wrong with a capture: findings that name file and field, and the errors that carry them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from moegs.errors import DataError, FormatError

Severity = Literal["error", "warning", "info"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One observation about a capture.

    Attributes:
        severity: ``error`` (the capture cannot be used as it is), ``warning`` (usable, look at it) or ``info``.
        file: path of the file that is meant.
        field: what in that file is meant.
        message: what was found, what was expected and what to do.
    """

    severity: Severity
    file: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.message}"


class CaptureError(DataError):
    """A capture that is missing something, damaged or inconsistent; ``finding`` names file and field."""

    def __init__(self, file: str | Path, field: str, message: str) -> None:
        self.finding = Finding("error", str(file), field, message)
        super().__init__(str(self.finding))


class CaptureFormatError(FormatError, DataError):
    """A file of a capture that is not what its name or header says; ``finding`` names file and field."""

    def __init__(self, file: str | Path, field: str, message: str) -> None:
        self.finding = Finding("error", str(file), field, message)
        super().__init__(str(self.finding))


def attempt(findings: list[Finding], step: Callable[[], T]) -> T | None:
    """Run a step; an error about the capture is appended to ``findings`` instead of raised, and gives None."""
    try:
        return step()
    except (CaptureError, CaptureFormatError) as error:
        findings.append(error.finding)
        return None
