"""Real processes as ranks: forked where torch is imported already, on loopback, with a deadline, no leftovers."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

LIMIT = 300
"""Seconds in which anything that is to happen has happened, on the busiest machine; half of a run's own deadline."""
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.support.preload"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tell_whether_cuda_works(answer: Connection) -> None:
    import torch

    # Without a GPU, a build for CUDA asks CUDA how many there are, and no rank needs it.
    answer.send(not torch.cuda.is_available() or not torch.cuda._is_in_bad_fork())
    answer.close()


@functools.cache
def context() -> BaseContext:
    """The fork server; new interpreters, seconds slower, where an import there has started CUDA already."""
    receive, send = FORKED.Pipe(duplex=False)
    probe = FORKED.Process(target=_tell_whether_cuda_works, args=(send,))
    probe.start()
    send.close()
    works = receive.poll(LIMIT) and receive.recv()
    probe.join(LIMIT)
    if not works:
        warnings.warn("the fork server has started CUDA: each rank is a new interpreter", stacklevel=2)
    return FORKED if works else multiprocessing.get_context("spawn")


def _enter(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    log: str,
    answer: Connection,
) -> None:
    os.environ.update(environment)
    # A process group of its own: a failing test's ranks can be ended together with their data workers.
    os.setsid()
    # Data workers are forked, as in a rank that torchrun started: a fork server of the rank's own would outlive it.
    multiprocessing.set_start_method("fork", force=True)
    with open(log, "w") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        answer.send(("value", function(*arguments)))
    except SystemExit as error:
        answer.send(("exit", error.code))
    except BaseException as error:
        traceback.print_exc()
        answer.send(("error", f"{type(error).__name__}: {error}"))
    finally:
        answer.close()


class Ranks:
    """`world` ranks that run `function(*arguments)`, with torchrun's variables set.

    `results()` waits for all of them; each result is ("value", returned), ("exit", status), ("error", text) or
    ("killed", signal number).
    """

    def __init__(
        self, world: int, function: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self.processes, self._answers, self.logs = [], [], []
        for rank in range(world):
            variables = {
                "RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(world),
                # A file, not a port: torch's TCP store would listen on every interface.
                "DIST_DASH_RENDEZVOUS": f"file://{self._folder.name}/store",
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
                **(environment or {}),
            }
            receive, send = FORKED.Pipe(duplex=False)
            log = str(Path(self._folder.name) / f"rank_{rank}.log")
            process = context().Process(  # type: ignore[attr-defined]
                target=_enter, args=(function, arguments, variables, log, send)
            )
            process.start()
            send.close()
            self.processes.append(process)
            self._answers.append(receive)
            self.logs.append(Path(log))

    def output(self, rank: int = 0) -> str:
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""

    def signal(self, number: int, ranks: list[int] | None = None) -> None:
        for rank in range(len(self.processes)) if ranks is None else ranks:
            pid = self.processes[rank].pid
            if pid is not None and self.processes[rank].is_alive():
                os.kill(pid, number)

    def results(self, deadline: float = LIMIT) -> list[tuple[str, Any]]:
        end = time.monotonic() + deadline
        found: list[tuple[str, Any]] = []
        try:
            for rank, (process, answer) in enumerate(zip(self.processes, self._answers, strict=True)):
                if not answer.poll(max(0, end - time.monotonic())):
                    raise TimeoutError(f"rank {rank} is not done after {deadline} s; its output:\n{self.output(rank)}")
                try:
                    found.append(answer.recv())
                except EOFError:
                    process.join(LIMIT)
                    found.append(("killed", -(process.exitcode or 0)))
            return found
        finally:
            self.close()

    def close(self) -> None:
        for process, answer in zip(self.processes, self._answers, strict=True):
            process.join(30)
            if process.is_alive() and process.pid is not None:
                os.killpg(process.pid, signal.SIGKILL)
                process.join(LIMIT)
            answer.close()


def on_ranks(
    world: int, function: Callable[..., Any], *arguments: Any, deadline: float = LIMIT, **options: Any
) -> list[Any]:
    """What `function(*arguments)` returns on each of `world` ranks; fails with the ranks' own errors."""
    ranks = Ranks(world, function, *arguments, **options)
    results = ranks.results(deadline)
    for rank, (kind, value) in enumerate(results):
        if kind != "value":
            outputs = "\n".join(f"--- rank {r} ---\n{ranks.output(r)}" for r in range(world))
            raise AssertionError(f"rank {rank}: {kind} {value}\n{outputs}")
    return [value for _, value in results]
