"""Ranks that stay alive from one run to the next, because starting processes takes longer than a short run."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from dist_dash.errors import RunFailed
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import FAILED, FINISHED, guarded, show_stacks_on_quit
from dist_dash.training.rank import train_on_this_rank

CONTEXT = multiprocessing.get_context("spawn")  # nothing of the parent's: a rank is as fresh as torchrun's
GRACE = 120.0  # seconds for ranks to save after a stop
STARTING = threading.Lock()  # groups start their ranks one after the other: they change this process's environment


class WarmRanks:
    """One process per rank of a run, which train one run after the other; a context manager.

    A run that does not end well takes its ranks with it; the next run starts new ones.

    Args:
        world: ranks of every run.
        threads: of each.
    """

    def __init__(self, world: int, threads: int = 1) -> None:
        self.world, self.threads, self._runs = world, threads, 0
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._asked_to_stop = False

    def __enter__(self) -> WarmRanks:
        self._folder = tempfile.TemporaryDirectory(prefix="dist-dash-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(GRACE if kind is None else 1.0)
        self._folder.cleanup()

    def train(self, arguments: Sequence[str], log: Path) -> int:
        """Do what `dist-dash train` does with these arguments, which name the run; its output goes to `log`.

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
            if self._asked_to_stop:  # while the ranks were being started
                self._terminate()
            statuses = self._answers()
        except (EOFError, OSError) as error:
            died = self._dead()
            self._end(0.0)
            raise RunFailed(died) from error
        finally:
            meet.unlink(missing_ok=True)
        if statuses != {FINISHED}:
            self._end(1.0)  # ranks have left by themselves
        return max(statuses, key=lambda status: (status == FAILED, status))

    def stop(self) -> None:
        """Ask the current run, and those that follow, to save and exit."""
        self._asked_to_stop = True
        self._terminate()

    def _terminate(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)

    def _answers(self) -> set[int]:
        """The status of every rank. All are waited for at once, because the others hang if one has died."""
        statuses: dict[int, int] = {}
        while left := [rank for rank in range(self.world) if rank not in statuses]:
            pipes, ends = [self._pipes[rank] for rank in left], [self._processes[rank].sentinel for rank in left]
            ready = multiprocessing.connection.wait([*pipes, *ends])
            for rank, pipe, end in zip(left, pipes, ends, strict=True):
                if pipe in ready or end in ready:
                    if not pipe.poll():
                        raise EOFError
                    statuses[rank] = pipe.recv()
        return set(statuses.values())

    def _dead(self) -> str:
        """The message about the rank that died."""
        multiprocessing.connection.wait([process.sentinel for process in self._processes], timeout=5)
        dead = {rank: process.exitcode for rank, process in enumerate(self._processes) if process.exitcode is not None}
        if not dead:
            return "a rank does not answer any more"
        rank = min(dead, key=lambda rank: dead[rank])  # killed ones first: the others may have failed because of that
        return f"rank {rank} died (exit status {dead[rank]})"

    def _start(self) -> None:
        with STARTING, _environment(OMP_NUM_THREADS=str(self.threads), TORCH_CPP_LOG_LEVEL="ERROR"):
            # Ctrl-C on the terminal reaches ranks that are still loading modules: it is delivered to them afterwards.
            resource_tracker.ensure_running()  # which comes with the first process, and would lift the block
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                for rank in range(self.world):
                    self._start_rank(rank)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _start_rank(self, rank: int) -> None:
        ours, theirs = CONTEXT.Pipe()
        # No daemon, which may have no data workers; it ends with the pipe, or with this process.
        process = CONTEXT.Process(target=_serve, args=(theirs, rank, self.world, self.threads), daemon=False)
        process.start()
        theirs.close()
        self._processes.append(process)
        self._pipes.append(ours)

    def _end(self, patience: float) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(patience)
            if process.exitcode != FINISHED:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with its data workers
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
    """The process of a rank: train the runs that come through the pipe until it is closed."""
    os.setsid()  # Ctrl-C on the terminal reaches the study alone, which hands it on once
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in place.items()})
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Data workers are forked as in a rank that a launcher started: they end with it.
    multiprocessing.set_start_method("fork", force=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    show_stacks_on_quit()
    gc.freeze()  # modules are not looked through after every run
    with StopRequest().listening(lambda text: None) as stop:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
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
            torch.use_deterministic_algorithms(False)  # until the recipe asks for it: as in a new process
            status = guarded(lambda: train_on_this_rank(arguments, stop))  # noqa: B023
            gc.collect()  # process groups hold threads and sockets
            sys.stdout.flush()
            pipe.send(status)
            if status != FINISHED:  # as a cold rank: its peers must see that it is gone, and it was asked to stop
                os._exit(status)


def _end_with_parent() -> None:
    """End this rank with the process of the study: it would hold the lock of its run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(FAILED)


def _forget_peak_memory() -> None:
    """Reset the peak memory of the process (Linux only), so that the next run measures its own."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
