"""Where a step's time goes: waiting for peers, transfer, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the seconds spent in named waits; on a stream-ordered backend by events, so that nothing waits for it.

    Args:
        on_stream: whether the waits happen on the accelerator's stream (NCCL) rather than on the host (gloo).
    """

    def __init__(self, on_stream: bool = False) -> None:
        self._on_stream = on_stream
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._started = time.perf_counter()
        self._excluding = False

    @contextmanager
    def waiting(self, name: str, on_host: bool = False) -> Iterator[None]:
        """Count the body's time under `name`; `on_host`: it is the host that waits, whatever the backend."""
        if self._excluding:
            yield
        elif self._on_stream and not on_host:
            before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            before.record()
            yield
            after.record()
            self._events.append((name, before, after))
        else:
            started = time.perf_counter()
            yield
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Leave the body's time (an evaluation, a checkpoint) out of the total, and the waits in it out of theirs."""
        started, outer = time.perf_counter(), self._excluding
        self._excluding = True
        try:
            yield
        finally:
            self._excluding = outer
            if not outer:
                self._started += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """Seconds since the last reading: `total` and each name; waits for the device where events are used."""
        for name, before, after in self._events:
            after.synchronize()
            self._seconds[name] = self._seconds.get(name, 0.0) + before.elapsed_time(after) / 1000
        now = time.perf_counter()
        seconds = {"total": now - self._started, **self._seconds}
        self._started, self._seconds, self._events = now, {}, []
        return seconds
