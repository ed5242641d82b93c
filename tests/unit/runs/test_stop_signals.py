"""A process that was started to ignore Ctrl-C keeps ignoring it; every other signal still stops the run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from dist_dash.runs.preemption import STOP_SIGNALS, StopRequest, stop_signals


@pytest.fixture
def handler_of_ctrl_c() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def stopped_by(number: int) -> str | None:
    said: list[str] = []
    with StopRequest().listening(said.append) as stop:
        os.kill(os.getpid(), number)
    assert said == ([f"{stop.signal}: stopping after this step"] if stop.made else [])
    return stop.signal


@pytest.mark.usefixtures("handler_of_ctrl_c")
def test_an_ignored_ctrl_c_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert stopped_by(signal.SIGINT) is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert stopped_by(signal.SIGTERM) == "SIGTERM"
    assert stopped_by(signal.SIGUSR2) == "SIGUSR2"


@pytest.mark.usefixtures("handler_of_ctrl_c")
def test_elsewhere_it_is_a_request_to_stop() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert stopped_by(signal.SIGINT) == "SIGINT"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert stop_signals() == list(STOP_SIGNALS)
