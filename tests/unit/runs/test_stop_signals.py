"""A process that was started to ignore Ctrl-C keeps ignoring it; every other signal still stops the run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from dist_dash.errors import BadInput
from dist_dash.ranks.launched import STOP_SIGNALS
from dist_dash.runs.preemption import StopRequest, stop_signals


@pytest.fixture
def handler_of_ctrl_c() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def stopped_by(number: int) -> str | None:
    said: list[str] = []
    with StopRequest().listening(said.append) as stop:
        os.kill(os.getpid(), number)
    assert said == ([f"{stop.signal}: stopping after the next step"] if stop.made else [])
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


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_is_a_request_to_stop(number: signal.Signals) -> None:
    assert stopped_by(number) == number.name


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stopped_by(signal.SIGHUP) is None
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("variable", "last"),
    [(None, "SIGUSR2"), ("SIGUSR1", "SIGUSR1"), ("term, hup", "SIGTERM"), ("", "SIGUSR2"), ("SIGHUP", "SIGHUP")],
)
def test_a_signal_that_asks_for_the_requeue_outdoes_the_others(
    variable: str | None, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("DIST_DASH_REQUEUE_SIGNALS", variable)
    with StopRequest().listening(lambda text: None) as stop:
        for number in (*STOP_SIGNALS, *reversed(STOP_SIGNALS)):
            os.kill(os.getpid(), number)
    assert stop.signal == last
    assert stop.named(stop.level) == last


@pytest.mark.parametrize("variable", ["SIGKILL", "USR1 and USR2", "10"])
def test_an_unknown_signal_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_DASH_REQUEUE_SIGNALS", variable)
    with pytest.raises(BadInput, match=r"DIST_DASH_REQUEUE_SIGNALS names SIG.*, but may only name SIGHUP, SIGINT, "):
        StopRequest()


def test_a_thread_notices_a_stop_while_the_main_thread_runs_no_handler() -> None:
    stop = StopRequest()
    assert stop.noticed() is None
    with stop.listening(lambda text: None):
        found: list[str | None] = []

        def look() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            while not found or found[-1] is None:
                found.append(stop.noticed())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(60)
    assert found[-1] == "SIGUSR1"
    assert stop.noticed() == "SIGUSR1"
    other = StopRequest()
    assert not other.heard(None)
    assert other.heard("SIGUSR1")
    assert (other.signal, other.level) == ("SIGUSR1", stop.level)
    assert other.heard(None)
