"""What a command does besides its work: code imported or run, programs started, files written elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen")
CONNECTIONS = ("socket.getaddrinfo", "urllib.Request")
SENT = ("torch", "numpy", "collections", "dist_dash")  # packages of what ranks send each other, which is pickled


class Watch:
    """Notes what happens in this process while it is on.

    Args:
        folder: the only one in which files may be written, and in which no code may be run.
        modules: names of modules that nobody may import.
    """

    def __init__(self, folder: Path, modules: frozenset[str]) -> None:
        self.folder, self.modules = str(folder), modules
        self.seen: list[str] = []
        self.is_on = False
        sys.addaudithook(self._hear)  # for good: it cannot be taken away

    @contextlib.contextmanager
    def on(self) -> Iterator[list[str]]:
        """What is seen inside of it."""
        self.seen.clear()
        self.is_on = True
        try:
            yield self.seen
        finally:
            self.is_on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "import" and str(arguments[0]).split(".")[0] in self.modules:
            self.seen.append(f"import of {arguments[0]}")
        elif event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith(self.folder):
            self.seen.append(f"code of {arguments[0].co_filename}")
        elif event == "pickle.find_class" and str(arguments[0]).split(".")[0] not in SENT:
            self.seen.append(f"unpickling of {arguments}")
        elif (event in PROGRAMS and arguments[0] != "git") or event in CONNECTIONS:
            self.seen.append(f"{event} {str(arguments)[:100]}")
        elif event == "open" and self._writes_elsewhere(*arguments):
            self.seen.append(f"open for writing {arguments[0]}")

    def _writes_elsewhere(self, path: Any, mode: Any, flags: Any) -> bool:
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if not writes or not isinstance(path, str | bytes):
            return False
        where = os.path.realpath(os.fsdecode(path))
        return not where.startswith((self.folder, "/dev/"))
