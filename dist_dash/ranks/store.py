"""The store in which ranks leave words for each other: where it is, and no wait on it without an end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from dist_dash.errors import BadInput, RunFailed, first_line
from dist_dash.ranks.launched import Launcher

T = TypeVar("T")
RESOLVING = 10.0  # seconds in which a name may become known: a cluster's names come up with its nodes


def open_store(rank: int, deadline: float) -> tuple[Callable[[], dist.Store], dist.Store]:
    """Connect to the store that the launcher's variables name.

    Returns:
        A function that opens another connection, and the first one, which on rank 0 may host the store.

    Raises:
        BadInput: no store can be there.
        RunFailed: this rank cannot host it, or does not find the host.
        OSError, torch's DistError: the host has not answered within `deadline` seconds.
    """
    launcher, end = Launcher(), time.monotonic() + deadline
    if path := launcher.meeting_file:
        if not Path(path).parent.is_dir():
            raise BadInput(f"environment: DIST_DASH_RENDEZVOUS names a file in {Path(path).parent}, which is no folder")
        # Not with the number of ranks: the last of so many to close it would remove the file, and one that closes its
        # connection at that moment finds a new, empty file, whose missing rest torch reads without end.
        return lambda: dist.FileStore(path), dist.FileStore(path)
    host, port = launcher.address
    if unknown := _unknown(host, 0.0 if rank == 0 else min(deadline, RESOLVING)):
        what = f"names {host!r}, which {socket.gethostname()} cannot resolve ({unknown})"
        text = f"environment: {launcher.address_variable} {what}; it must be rank 0's host, as all hosts know it"
        raise BadInput(text) if rank == 0 else RunFailed(text)

    def connect(hosting: bool = False) -> dist.Store:
        timeout = timedelta(seconds=deadline)
        if not hosting:  # torch's own wait prints a page of stack frames when it ends
            _wait_for_host(host, port, end)
        return dist.TCPStore(host, port, None, hosting, timeout, wait_for_workers=False, multi_tenant=True)

    hosting = rank == 0 and launcher.rank_0_hosts_store
    try:
        return connect, within(deadline + 2.0, lambda: connect(hosting))
    except RuntimeError as error:
        if not hosting:
            raise
        text = f"the rendezvous cannot be at {host}:{port} ({first_line(error)})"
        raise RunFailed(f"{text}; {launcher.address_variable} must be this host, and the port free") from error


def host_of_store() -> str:
    """Who hosts the store, for messages; empty where rank 0 does."""
    launcher = Launcher()
    if launcher.meeting_file:
        return f"the file system of {launcher.meeting_file}"
    return "" if launcher.rank_0_hosts_store else "the launcher (torchrun) at {}:{}".format(*launcher.address)


def within(seconds: float, call: Callable[[], T]) -> T:
    """The call's result. A store has no deadline of its own: one whose host hangs would hang its readers.

    Raises:
        TimeoutError: it has not come in so many seconds.
    """
    found: list[T] = []
    problems: list[Exception] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            problems.append(error)

    caller = threading.Thread(target=run, daemon=True)
    caller.start()
    caller.join(seconds)
    if problems:
        raise problems[0]
    if not found:
        raise TimeoutError("no answer")
    return found[0]


def _unknown(host: str, patience: float) -> str:
    """Why a name cannot be resolved; empty where it can."""
    end = time.monotonic() + patience
    while True:
        try:
            socket.getaddrinfo(host, None)
            return ""
        except (socket.gaierror, UnicodeError) as error:
            if time.monotonic() > end:
                return getattr(error, "strerror", None) or first_line(error)
            time.sleep(0.5)


def _wait_for_host(host: str, port: int, end: float) -> None:
    while True:
        try:
            socket.create_connection((host, port), timeout=max(1.0, end - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
