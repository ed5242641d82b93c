"""The two kinds of errors that end a run, each with one line that a person can act on."""

from __future__ import annotations

import errno
import math
import re
import sysconfig
import traceback
from pathlib import Path
from typing import Any, TypeVar

PACKAGE = str(Path(__file__).parent)
ELSEWHERE = re.compile(
    rf"<|.*/(site|dist)-packages/|{re.escape(PACKAGE)}/|{re.escape(sysconfig.get_path('stdlib'))}/"
)  # files that are not the user's own
IN_A_WORKER = re.compile(r'File "(.+)", line (\d+)')
NOT_TO_BE_USED = {  # what is wrong with a path that was given, not with a disk that fails
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}


class BadInput(ValueError):
    """What the user gave cannot be used: one line with the field, the value and what is allowed. Exit status 2."""

    everywhere = False
    """Whether all ranks raise the same error: then only rank 0 prints it."""


class RunFailed(RuntimeError):
    """The run itself broke (a lost rank, a non-finite member, a full disk): one line, what and where. Exit status 1."""

    everywhere = False
    """Whether all ranks raise the same error: then only rank 0 prints it."""


class OutOfTime(RunFailed):
    """A rank has waited as long as the others wait for it: no exchange can tell them any more."""


Problem = TypeVar("Problem", bound=Exception)


def everywhere(error: Problem) -> Problem:
    """Mark an error as one that all ranks raise alike."""
    error.everywhere = True  # type: ignore[attr-defined]
    return error


def said(error: Problem) -> Problem:
    """Mark an error as one that another rank prints."""
    error.said = True  # type: ignore[attr-defined]
    return error


def require(holds: bool, field: str, value: Any, allowed: str) -> None:
    """Raise `BadInput` naming `field`, `value` and what is `allowed`, unless the condition `holds`."""
    if not holds:
        raise BadInput(f"{field}: {value!r} is not allowed; it must be {allowed}")


MOST = 10**9
"""No count is larger: what is multiplied of two of them fits into 64 bits."""


def require_count(field: str, value: int | None, least: int = 1, most: int = MOST) -> None:
    """Raise `BadInput` unless `value` is a whole number in this range, or None."""
    if value is not None:
        require(least <= value <= most, field, value, f"a whole number ≥ {least}" + f" and ≤ {most}" * (value > most))


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


def own_code(error: BaseException) -> traceback.FrameSummary | None:
    """Where the user's own code raised an error, or called what raised it; None where there is none of it.

    It is the last line of the traceback that belongs to neither Python nor an installed package, in what was called
    from here.
    """
    found = None
    if in_worker := [one for one in IN_A_WORKER.findall(str(error)) if not ELSEWHERE.match(one[0])]:
        return traceback.FrameSummary(in_worker[-1][0], int(in_worker[-1][1]), "")  # its traceback comes as text
    for frame in traceback.extract_tb(error.__traceback__):
        if not ELSEWHERE.match(frame.filename):
            found = frame
        elif frame.filename.startswith(PACKAGE):
            found = None
    return found


def place_of(error: BaseException) -> str:
    """`file:line` where an error was raised: of the user's own code, if it has come from there."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = own_code(error) or (frames[-1] if frames else None)
    return f"{frame.filename}:{frame.lineno}" if frame else "nowhere"
