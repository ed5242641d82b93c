"""Ranks that stay alive from one run to the next: short runs need not pay for starting processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from dist_dash.cli import guarded
from dist_dash.errors import RunFailed
from dist_dash.layout import layout_from_environment
from dist_dash.parsing import parse_command
from dist_dash.preemption import FAILED, StopRequest
from dist_dash.train import train

CONTEXT = multiprocessing.get_context("spawn")  # nothing of the parent's: a rank is as fresh as torchrun's
GRACE = 120.0  # seconds for ranks to save after a stop


class WarmRanks:
    """One process per rank of a run, which train one run after the other; a context manager.

    A rank that dies or fails takes the others with it; the next run starts new ones.

    Args:
        world: ranks of every run.
        threads: of each.
    """

    def __init__(self, world: int, threads: int = 1) -> None:
        self.world, self.threads, self._runs = world, threads, 0
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> WarmRanks:
        self._folder = tempfile.TemporaryDirectory(prefix="dist-dash-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(GRACE if kind is None else 1.0)
        self._folder.cleanup()

    def train(self, arguments: Sequence[str], log: Path) -> int:
        """Do what `dist-dash train` does with these arguments, which name the run; what it prints goes to `log`.

        Returns:
            The exit status: of the ranks that failed where not all agree.

        Raises:
            RunFailed: a rank died.
        """
        if not self._processes:
            self._start()
        self._runs += 1
        meet = Path(self._folder.name) / f"run_{self._runs}"
        try:
            for pipe in self._pipes:
                pipe.send((list(arguments), f"file://{meet}", str(log)))
            statuses = {self._answer(rank) for rank in range(self.world)}
        except (EOFError, OSError) as error:
            self._end(0.0)
            raise RunFailed(f"a rank died ({error or type(error).__name__}); see {log}") from error
        finally:
            meet.unlink(missing_ok=True)
        if FAILED in statuses:  # its process groups are in disorder
            self._end(0.0)
        return max(statuses, key=lambda status: (status == FAILED, status))

    def stop(self) -> None:
        """Ask the run under way to save and leave."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)

    def _answer(self, rank: int) -> int:
        """The rank's status; waits for all of them at once, for the others hang where one has died."""
        waiting: list[Any] = [self._pipes[rank], *(process.sentinel for process in self._processes)]
        ready = multiprocessing.connection.wait(waiting)
        if self._pipes[rank] not in ready:
            died = next(r for r, process in enumerate(self._processes) if process.sentinel in ready)
            raise EOFError(f"rank {died}, exit status {self._processes[died].exitcode}")
        status: int = self._pipes[rank].recv()
        return status

    def _start(self) -> None:
        for rank in range(self.world):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_serve, args=(theirs, rank, self.world, self.threads), daemon=True)
            with _environment(OMP_NUM_THREADS=str(self.threads), TORCH_CPP_LOG_LEVEL="ERROR"):
                process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _end(self, patience: float) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(patience)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes, self._pipes = [], []


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for children that are started inside: libraries read them when they are loaded."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection, rank: int, world: int, threads: int) -> None:
    """A rank's life: train what it is told to until nobody tells it any more."""
    os.setsid()  # Ctrl-C on the terminal reaches the study alone, which hands it on once
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in place.items()})
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Data workers are forked as in a rank that a launcher started: they end with it.
    multiprocessing.set_start_method("fork", force=True)
    with StopRequest().listening(lambda text: None) as stop:
        while True:
            try:
                arguments, meet, log = pipe.recv()
            except EOFError:
                return
            os.environ["DIST_DASH_RENDEZVOUS"] = meet
            with open(log, "a") as file:  # noqa: PTH123
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            _forget_peak_memory()
            pipe.send(guarded(lambda: _train(arguments, stop)))  # noqa: B023
            sys.stdout.flush()


def _train(arguments: Sequence[str], stop: StopRequest) -> int:
    command = parse_command(arguments)
    return train(command, layout_from_environment(command.recipe.members, command.member), stop)


def _forget_peak_memory() -> None:
    """Let the next run measure its own peak, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
