"""Files that are complete or absent: atomic writes, errors that name their file, JSON, one process per folder."""

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
    """Be the one process of a command that works in a folder of runs; the folder is created where it is new.

    Args:
        folder: of runs.
        lock: name of the lock file in it.
        command: of `dist-dash`, for the message.

    Raises:
        BadInput: another process works there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / lock, timeout=0):
            yield
    except Timeout as error:
        raise BadInput(f"folder: {folder} is in use by another `dist-dash {command}`; wait for it") from error


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors of writing it: a failed write names none, and torch wraps it in an error of its own."""
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
    """Yield a temporary path beside `path`; at the end it replaces `path`, complete and on disk, or not at all."""
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
    """Write a small file so that it appears complete, or not at all."""
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

    Args:
        path: the file.
        what: the message begins with it.

    Raises:
        BadInput: the file is missing or is not JSON, or an object in it has a name twice.
    """
    try:
        return json.loads(path.read_text(), object_pairs_hook=_named_once)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{what}: {path} is missing or unreadable ({type(error).__name__})") from error


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def parse_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object; empty where the text is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, or where it cannot be read."""
    try:
        return parse_object(path.read_text(errors="replace"))
    except OSError:
        return {}
