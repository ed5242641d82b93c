"""What a rank needs of its host: a network interface that exists, and open files."""

from __future__ import annotations

import os
import resource
import socket

ENOUGH_FILES = 65536


def problem_of_host(backend: str) -> str:
    """What keeps a rank on this host from taking part, in one line; empty where nothing does.

    Args:
        backend: by which ranks exchange.
    """
    there = [name for _, name in socket.if_nameindex()]
    wanted = [("GLOO_SOCKET_IFNAME", name) for name in _names("GLOO_SOCKET_IFNAME") if name not in there]
    given = _names("NCCL_SOCKET_IFNAME") if backend == "nccl" else []
    # NCCL reads prefixes, of which one must fit: `eth` means eth0, `=eth0` that one, `^docker` all others.
    if given and not any(name.startswith("^") or _fits(name, there) for name in given):
        wanted.append(("NCCL_SOCKET_IFNAME", ",".join(given)))
    for variable, name in wanted:
        return f"environment: {variable} is {name!r}, but the interfaces of this host are {', '.join(there)}"
    return ""


def allow_open_files() -> None:
    """Raise this process's own limit of open files, and its children's, as far as the system lets it.

    Sockets to every peer, and a file for every tensor of a data worker's batch, soon exceed the usual 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _fits(name: str, there: list[str]) -> bool:
    return name[1:] in there if name.startswith("=") else any(one.startswith(name) for one in there)


def _names(variable: str) -> list[str]:
    return [name for name in os.environ.get(variable, "").split(",") if name]
