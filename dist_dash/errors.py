"""The two kinds of errors that end a run, each with one line that a person can act on."""

from __future__ import annotations

import math
from typing import Any, TypeVar


class BadInput(ValueError):
    """What the user gave cannot be used: one line with the field, the value and what is allowed. Exit status 2."""

    everywhere = False
    """Whether all ranks raise the same error: then only rank 0 prints it."""


class RunFailed(RuntimeError):
    """The run itself broke (a lost rank, a non-finite member, a full disk): one line, what and where. Exit status 1."""

    everywhere = False
    """Whether all ranks raise the same error: then only rank 0 prints it."""


Problem = TypeVar("Problem", bound="BadInput | RunFailed")


def everywhere(error: Problem) -> Problem:
    """Mark an error as one that all ranks raise alike."""
    error.everywhere = True
    return error


def require(holds: bool, field: str, value: Any, allowed: str) -> None:
    """Raise `BadInput` naming `field`, `value` and what is `allowed`, unless the condition `holds`."""
    if not holds:
        raise BadInput(f"{field}: {value!r} is not allowed; it must be {allowed}")


def require_non_negative(field: str, value: float) -> None:
    """Raise `BadInput` unless `value` is a finite number ≥ 0."""
    require(math.isfinite(value) and value >= 0, field, value, "a finite number ≥ 0")


def require_positive(field: str, value: float) -> None:
    """Raise `BadInput` unless `value` is a finite number > 0."""
    require(math.isfinite(value) and value > 0, field, value, "a finite number > 0")


def require_fraction(field: str, value: float) -> None:
    """Raise `BadInput` unless `value` lies in [0, 1)."""
    require(0 <= value < 1, field, value, "a number in [0, 1)")


def first_line(error: BaseException) -> str:
    """The error in one line: its type where it says nothing itself."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
