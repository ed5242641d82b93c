"""Files that are complete or absent: atomic writes, errors that name their file, and one process per folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dist_dash.errors import BadInput


@contextlib.contextmanager
def only_one(folder: Path, lock: str, command: str) -> Iterator[None]:
    """Be the one process of a command that works in a folder of runs, which is made where it is new.

    Raises:
        BadInput: another one does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / lock, timeout=0):
            yield
    except Timeout as error:
        raise BadInput(f"folder: {folder} is in use by another `dist-dash {command}`; wait for it") from error


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors of writing it: a failed write does not, and torch hides it behind an error of its own."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause.errno is None or cause.filename is not None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place at the end, complete and on disk, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str) -> None:
    """Write a small file so that it is there complete, or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(content)


def sync_folder(folder: Path) -> None:
    """Make names and renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file of a run.

    Raises:
        BadInput: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{what}: {path} is missing or unreadable ({type(error).__name__})") from error
