"""The init process of a node: the first one in its name spaces, or else the subreaper of its slurmd.

Also, for the server as well, what ends process trees. Standard library only: it runs as `python -I`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    libc.prctl(PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Whatever descendants fork, and however they detach, they stay descendants."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> list[int]:
    """The living descendants of a process, parents before their children."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace")
            state, parent = text[text.rindex(")") + 2 :].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def kill_descendants(root: int) -> None:
    while victims := descendants(root):  # again and again: they may fork meanwhile
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def live(name: str, address: str, folder: str, isolated: bool) -> None:
    adopt_orphans()
    print("up", flush=True)
    sys.stdin.read()  # until the cable is plugged in
    if isolated:
        socket.sethostname(name)
        for command in (
            f"mount --bind {folder}/hosts /etc/hosts",
            "mount -t tmpfs tmpfs /dev/shm",
            "ip link set lo up",
            f"ip addr add {address}/24 dev eth0",
            "ip link set eth0 up",
        ):
            subprocess.run(command.split(), check=True, stdin=subprocess.DEVNULL)
    else:  # no name space ends with us: when the server is killed, the descendants are ours to kill

        def end(*_: object) -> None:
            kill_descendants(os.getpid())
            os._exit(1)

        signal.signal(signal.SIGTERM, end)
        die_with_parent(signal.SIGTERM)
    slurmd = subprocess.Popen(["slurmd", "-D", "-N", name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while os.wait()[0] != slurmd.pid:
        pass


if __name__ == "__main__":
    live(*json.loads(sys.argv[1]))
