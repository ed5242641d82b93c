"""Files that are complete or absent: atomic writes, errors that name their file, JSON, one process per folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from dist_dash.errors import BadInput

SEAL = "blake2b"
"""Field of a JSON object that holds the checksum of the others."""
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_VALUES = 100_000  # of a YAML file, aliases written out


def find_modules_here() -> None:
    """Let modules of the current folder be imported: a console script does not look there.

    Last, so that nothing there hides a package.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def how_to_find(module: str, error: Exception) -> str:
    """What helps where a module itself cannot be found, as the end of a message; empty after another error."""
    top = module.partition(".")[0]
    missing = isinstance(error, ModuleNotFoundError) and error.name == top
    return f"; start in the folder that holds {top}, or put that folder into PYTHONPATH" if missing else ""


def check_writable(file: Path, field: str) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        BadInput: there is a folder in its place, or its own folder cannot be written into.
    """
    if file.is_dir():
        raise BadInput(f"{field}: {file} is a folder; it must be a file")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise BadInput(f"{field}: {file} cannot be written ({error.strerror}); its folder must be writable") from error


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
        held = locked(folder / lock)
    except Timeout as error:
        raise BadInput(f"folder: {folder} is in use by another `dist-dash {command}`; wait for it") from error
    try:
        yield
    finally:
        held.release()


def locked(path: Path, patience: float = 0.0) -> BaseFileLock:
    """A lock that is held; where the file system has none (Lustre, some NFS), the file's presence is the lock.

    Args:
        path: of the lock file.
        patience: seconds to wait for another holder.

    Raises:
        Timeout: another process holds it.
    """
    lock: BaseFileLock = FileLock(path, timeout=patience)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it takes the file's presence for the lock
            lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise
        with contextlib.suppress(FileNotFoundError):
            if not path.stat().st_size:  # which the attempt has left
                path.unlink()
        lock = SoftFileLock(path, timeout=patience)
        lock.acquire()
    return lock


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
    if path.is_dir():
        raise BadInput(f"run: {path} is a folder; it must be a file, or absent")
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


def write_json(path: Path, value: dict[str, Any], allow_nan: bool = True) -> None:
    """Write a JSON object, complete or not at all, with a checksum of itself: `read_json` sees what was damaged."""
    plain = json.loads(json.dumps(value, allow_nan=allow_nan))
    write_atomically(path, json.dumps({**plain, SEAL: _seal_of(plain)}, indent=1))


def _seal_of(value: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def digest_of(path: Path, size: int | None = None) -> str:
    """BLAKE2b of a file, or of its first `size` bytes."""
    digest, left = hashlib.blake2b(digest_size=16), size
    with path.open("rb") as file:
        while chunk := file.read(1 << 22 if left is None else min(1 << 22, left)):
            digest.update(chunk)
            left = None if left is None else left - len(chunk)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
        BadInput: the file is missing, is not JSON, has a name twice in an object, or a checksum that does not fit.
    """
    found, intact = read_sealed(path, what)
    if not intact:
        raise BadInput(f"{what}: {path} has changed since it was written; if that is meant, remove its line {SEAL!r}")
    return found


def read_sealed(path: Path, what: str) -> tuple[Any, bool]:
    """The same, and whether its checksum fits, where it has one."""
    try:
        found = json.loads(path.read_text(), object_pairs_hook=_named_once)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{what}: {path} is missing or unreadable ({type(error).__name__})") from error
    sealed = isinstance(found, dict) and SEAL in found
    return found, not sealed or found.pop(SEAL) == _seal_of(found)


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


def check_yaml(text: str) -> None:
    """Refuse what YAML's loaders let pass, and what would stop them.

    Raises:
        yaml.YAMLError: a name is there twice, an alias is inside what it names, or the text holds too much.
    """
    sizes = dict[int, int]()  # of nodes; 0: it is being looked at

    def size(node: yaml.Node | None) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if sizes.setdefault(id(node), 0):
            return sizes[id(node)]
        inner, names = 1, set[str]()
        for entry in node.value:
            if isinstance(node, yaml.MappingNode):
                name = entry[0]
                if isinstance(name, yaml.ScalarNode):
                    if name.value in names:
                        raise yaml.MarkedYAMLError(problem=f"{name.value} is there twice", problem_mark=name.start_mark)
                    names.add(name.value)
            for one in entry if isinstance(entry, tuple) else [entry]:
                if sizes.get(id(one)) == 0:
                    raise yaml.MarkedYAMLError(problem="an alias to what it is in", problem_mark=one.start_mark)
                inner += size(one)
        if inner > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES} values", problem_mark=node.start_mark)
        sizes[id(node)] = inner
        return inner

    size(yaml.compose(text, SAFE_LOADER))


def load_yaml(text: str, load: Callable[[str], Any] = lambda text: yaml.load(text, SAFE_LOADER)) -> Any:
    """What a YAML text holds, checked.

    Args:
        text: all of it.
        load: reads it; by default only what every YAML reader knows.

    Raises:
        yaml.YAMLError: it is none, or `check_yaml` refuses it.
    """
    try:
        found = load(text)
        check_yaml(text)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    return found
