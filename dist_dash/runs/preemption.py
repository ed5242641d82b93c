"""Signals set one flag; the ranks compare it at every step and stop together."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from dist_dash.ranks.launched import STOP_SIGNALS, Launcher


def stop_signals() -> list[signal.Signals]:
    """Those that mean something to this process, in ascending order: the last of those that ranks received decides.

    It may have been started to ignore Ctrl-C, as a shell script's background jobs are, or the terminal's end (nohup):
    then it keeps ignoring it.
    """
    ignored = {number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN}
    return [number for number in _ascending() if number not in ignored]


def _ascending() -> list[signal.Signals]:
    again = Launcher().requeue_signals
    return sorted(STOP_SIGNALS, key=lambda number: number in again)


class StopRequest:
    """Whether this rank was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._ascending = [number.name for number in _ascending()]
        self._numbers = {int(number): number.name for number in _ascending()}
        self._told: socket.socket | None = None
        self._noticed: str | None = None

    @property
    def made(self) -> bool:
        """Whether a stop was asked for on this rank."""
        return self.signal is not None

    def noticed(self) -> str | None:
        """The signal by which this rank was asked to stop, for another thread: the main one may wait in a collective.

        Python runs no handler there, but leaves the signal's number at once.
        """
        with contextlib.suppress(OSError):  # none has come
            for number in self._told.recv(64) if self._told else b"":
                self._noticed = self._numbers.get(number, self._noticed)
        return self._noticed

    def heard(self, elsewhere: str | None) -> bool:
        """Whether a stop was asked for on this rank, or by the signal that another rank tells of; it is this one's."""
        self.signal = self.signal or elsewhere
        return self.made

    @property
    def level(self) -> int:
        """0 where no stop was asked for, else the signal's place in the ascending order, from 1."""
        return 0 if self.signal is None else 1 + self._ascending.index(self.signal)

    def named(self, level: int) -> str:
        """The signal of a level above 0."""
        return self._ascending[level - 1]

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[StopRequest]:
        """Take the stop signals as a request to stop after the present step; restore what was there after."""

        def note(number: int, frame: FrameType | None) -> None:
            name = signal.Signals(number).name
            if self.level <= self._ascending.index(name):
                if self.signal is None:
                    say(f"{name}: stopping after the next step")
                self.signal = name

        before = {number: signal.signal(number, note) for number in stop_signals()}
        self._told, came = socket.socketpair()
        for end in (self._told, came):
            end.setblocking(False)
        earlier = signal.set_wakeup_fd(came.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(earlier)
            self._told.close()
            came.close()
            for number, handler in before.items():
                signal.signal(number, handler)


class Stopped(Exception):
    """All ranks agreed to stop in the middle of something that is done again after the resume."""
