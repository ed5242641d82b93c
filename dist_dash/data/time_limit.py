"""Waiting for what may never come: a file system that does not answer, a data worker that hangs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dist_dash.errors import OutOfTime

T = TypeVar("T")
POLL = 0.2
"""Seconds between two looks at the stop request."""


class Interrupted(Exception):
    """This rank was asked to stop before what it waited for had come."""


class TimeLimit:
    """How long a rank waits for data: until a deadline, or until it is asked to stop.

    Args:
        deadline: seconds for each wait.
        stop: whether this rank was asked to stop.
    """

    def __init__(self, deadline: float = 600.0, stop: Callable[[], bool] = lambda: False) -> None:
        self.deadline, self.stop = deadline, stop

    def call(self, function: Callable[..., T], *arguments: Any, what: Callable[[], str]) -> T:
        """What the function returns or raises. It runs in a thread of its own, which a lost wait leaves behind.

        Args:
            function: waits.
            arguments: of it.
            what: has not come, for the message.

        Raises:
            OutOfTime: the deadline has passed.
            Interrupted: a stop was asked for.
        """
        answer: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answer.put((function(*arguments), None))
            except BaseException as error:
                answer.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        end = time.monotonic() + self.deadline
        while True:
            try:
                value, error = answer.get(timeout=POLL)
                break
            except queue.Empty:
                if self.stop():
                    raise Interrupted from None
                if time.monotonic() > end:
                    raise OutOfTime(f"{what()} for {self.deadline:g} s (checks.deadline)") from None
        if error is not None:
            raise error
        return value  # type: ignore[return-value]
