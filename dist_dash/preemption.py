"""Signals become one flag; the ranks agree on it at every step and leave together."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

FINISHED, TO_BE_CONTINUED = 0, 75  # exit statuses of a run that went well
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Whether this rank was asked to stop, and by what."""

    def __init__(self) -> None:
        self.signal: str | None = None

    @property
    def made(self) -> bool:
        """Whether a stop was asked for on this rank."""
        return self.signal is not None

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[StopRequest]:
        """Take SIGTERM, SIGUSR2 and Ctrl-C as a request to stop after the present step; restore the handlers after."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.signal is None:
                self.signal = signal.Signals(number).name
                say(f"{self.signal}: stopping after this step")

        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Stopped(Exception):
    """All ranks agreed to stop in the middle of something that is done again after the resume."""
