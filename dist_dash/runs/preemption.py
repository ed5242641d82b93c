"""Signals set one flag; the ranks compare it at every step and stop together."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# In ascending order: where the ranks received different signals, the last one decides. SIGUSR2 (a time limit, a
# preemption) asks that the run be started again, the others do not.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
RESTART_SIGNAL = signal.SIGUSR2.name


def stop_signals() -> list[signal.Signals]:
    """Those that mean something to this process.

    It may have been started to ignore Ctrl-C, as a shell script's background jobs are: then it keeps ignoring it.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (ignored and number == signal.SIGINT)]


class StopRequest:
    """Whether this rank was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None

    @property
    def made(self) -> bool:
        """Whether a stop was asked for on this rank."""
        return self.signal is not None

    @property
    def level(self) -> int:
        """0 where no stop was asked for, else the signal's place in `STOP_SIGNALS`, from 1."""
        return 0 if self.signal is None else 1 + [number.name for number in STOP_SIGNALS].index(self.signal)

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[StopRequest]:
        """Take SIGTERM, SIGUSR2 and Ctrl-C as a request to stop after the present step; restore the handlers after."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.level <= STOP_SIGNALS.index(signal.Signals(number)):
                if self.signal is None:
                    say(f"{signal.Signals(number).name}: stopping after this step")
                self.signal = signal.Signals(number).name

        before = {number: signal.signal(number, note) for number in stop_signals()}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Stopped(Exception):
    """All ranks agreed to stop in the middle of something that is done again after the resume."""
