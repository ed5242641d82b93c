"""Ranks of studies in tests: quick to start, none of them left; and moments to strike at."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dist_dash.study import warm
from tests.support.ranks import FORKED, LIMIT, on_ranks


@contextlib.contextmanager
def quick_ranks(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Ranks that are forked where torch is imported already; none of them, and none of their folders, is left."""
    on_ranks(1, int)  # the fork server stays
    before = set(alive())
    threads = threading.active_count()
    monkeypatch.setattr(warm, "CONTEXT", FORKED)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # as many threads a rank as the ranks that they are compared with
    (folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    caught = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in caught.items():
        signal.signal(number, handler)
    wait_until(lambda: set(alive()) <= before)
    left = {path.name for path in (folder / "temporary").iterdir()}
    assert {name for name in left if not name.startswith("torchinductor")} == set()  # a cache of torch's
    assert threading.active_count() == threads


def alive() -> list[int]:
    """Every process below this one."""
    below = psutil.Process().children(recursive=True)
    return [process.pid for process in below if process.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition: Callable[[], Any], deadline: float = LIMIT) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.01)


def when(condition: Callable[[], Any], act: Callable[[], None]) -> threading.Thread:
    """Do something in the background at a moment that comes."""

    def waiting() -> None:
        wait_until(condition)
        act()

    thread = threading.Thread(target=waiting)
    thread.start()
    return thread
