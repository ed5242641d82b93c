"""Why a collective failed: who is missing, or which error another rank has ended with.

A thread of every rank leaves a mark in the rendezvous' store a few times a second: a count that grows while the process
lives, how many collectives it has started, and whether it waits in one. A rank whose count stands still was killed or
hangs; one that lives outside the collective in which the others wait is held up there. The first that finds out leaves
it for all: by then the host of the store may be the next to end. The store at every collective would cost more than the
collective. The same thread tells of a request to stop: whoever waits for data hears it though its peers wait for it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch.distributed as dist

from dist_dash.errors import BadInput, RunFailed, first_line, own_code, said
from dist_dash.ranks.launched import Launcher
from dist_dash.ranks.layout import Layout
from dist_dash.ranks.meeting import STAYING, Meeting, listed, lost_host, wait_for
from dist_dash.ranks.store import within

INTERVAL = 0.2  # seconds between two marks
PATIENCE = 3.0  # seconds without a new mark after which a rank does not live
WAITING, BUSY, LEAVING = "waiting", "busy", "leaving"
LOST_CONNECTION = "all ranks live: a connection between them broke"


class Mark(NamedTuple):
    """What a rank's thread leaves.

    Args:
        beats: how often it has left a mark.
        state: `WAITING` in a collective, `BUSY` outside, or `LEAVING`, because it knows that the run ends.
        calls: collectives that the rank has started.
    """

    beats: int = 0
    state: str = BUSY
    calls: int = 0


class Diagnosis:
    """This rank's marks in the store, and the reading of all ranks' marks after a failure.

    Args:
        meeting: of all ranks.
        layout: who this rank is.
        deadline: of a collective, in seconds.
        stop: the signal by which this rank was asked to stop; None: it was not.
    """

    def __init__(
        self, meeting: Meeting, layout: Layout, deadline: float, stop: Callable[[], str | None] = lambda: None
    ) -> None:
        self.store, self._meeting, self._layout, self._deadline = meeting.connect(), meeting, layout, deadline
        self.step, self._stop = 0, stop
        self.made = False
        """Whether this rank has said why a collective failed."""
        self.lost: list[int] = []
        """Who is missing, once that is known."""
        self._beats, self._calls, self._waiting, self._ended = 0, 0, False, ""
        self.begin(0)
        self._end = threading.Event()
        self._writer = threading.Thread(target=self._keep_writing, args=(meeting.connect(),), daemon=True)
        self._writer.start()

    def begin(self, step: int) -> None:
        """An update begins."""
        self.step = step
        with contextlib.suppress(RuntimeError):  # the store's host is gone: the collectives will say so
            self.store.set(f"step/{self._layout.rank}", str(step))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The body is a collective, or waits for one."""
        self._calls += 1
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def close(self, patience: float = INTERVAL + 1.0) -> None:
        """Write no more marks; waits so many seconds for one that is being written."""
        self._end.set()
        self._writer.join(patience)

    def leave_error(self, error: Exception) -> None:
        """Leave the error with which this rank ends alone, for the others to say; the first rank prints a traceback."""
        known = isinstance(error, BadInput | RunFailed) or (isinstance(error, OSError) and own_code(error) is None)
        kind = "input" if isinstance(error, BadInput) else "failure" if known else "raised"
        text = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
        text = f"{text} ({self.name(self._layout.rank)})"
        with contextlib.suppress(RuntimeError, TimeoutError):  # nobody is there to read it
            left = within(STAYING, lambda: self._leave(kind, text))
            if kind == "raised" and json.loads(left)[:2] != [kind, text]:
                said(error)

    def reason(self, error: Exception | None = None) -> BadInput | RunFailed:
        """Why a collective failed, by what the ranks have left in the store; takes a few seconds.

        Args:
            error: with which it failed; the deadline has passed where there is none.
        """
        self.made = True
        failed = f"step {self.step}: an exchange did not complete"
        what = f" ({first_line(error)})" if error is not None else ""
        try:
            self._ended = within(PATIENCE + STAYING + min(self._deadline, 10.0), lambda: self._find_out(failed, what))
            self._mark(self.store)
        except (RuntimeError, TimeoutError):  # unless it was heard of before, nobody is left to ask
            lost = [0] if Launcher().rank_0_hosts_store else []
            self._ended = self._ended or json.dumps(["failure", f"{failed}; {lost_host(self._layout)}", lost])
        kind, text, self.lost = json.loads(self._ended)
        found = (BadInput if kind == "input" else RunFailed)(text)
        return said(found) if kind == "raised" else found

    def stop_asked_for(self) -> str | None:
        """The signal by which some rank was asked to stop; None: not yet."""
        with contextlib.suppress(RuntimeError):  # the store's host is gone: the collectives will say so
            return self.store.get("stop").decode() if self.store.check(["stop"]) else None
        return None

    def name(self, rank: int) -> str:
        """What messages call a rank."""
        return f"rank {rank}, member {self._layout.identity_of(rank)}"

    # -- this rank's marks ---------------------------------------------------------------------------------------------

    def _keep_writing(self, store: dist.Store) -> None:
        # A connection of its own: another's would wait for the answers that this one waits for.
        with contextlib.suppress(RuntimeError):  # the store's host is gone: the collectives will say so
            while True:
                self._mark(store)
                if signal := self._stop():
                    store.set("stop", signal)
                if not self._ended and store.check(["ended"]):
                    self._ended = store.get("ended").decode()
                elif self._end.wait(INTERVAL):
                    return

    def _mark(self, store: dist.Store) -> None:
        self._beats += 1
        state = LEAVING if self._ended else WAITING if self._waiting else BUSY
        store.set(f"mark/{self._layout.rank}", json.dumps(Mark(self._beats, state, self._calls)))

    def _leave(self, kind: str, text: str, lost: Sequence[int] = ()) -> str:
        """Leave why the run ends, unless somebody has; returns what is there."""
        ended = self.store.compare_set("ended", "", json.dumps([kind, text, [*lost]])).decode()
        if self._layout.rank == 0 and Launcher().rank_0_hosts_store:
            others = {*range(1, self._layout.world)} - {*lost}
            wait_for(lambda: all(self._marks()[rank].state == LEAVING for rank in others))
        return ended

    # -- all ranks' marks ----------------------------------------------------------------------------------------------

    def _find_out(self, failed: str, what: str) -> str:
        time.sleep(INTERVAL)  # a last mark may still be on its way
        first = marks = self._marks()
        living, end = {self._layout.rank}, time.monotonic() + PATIENCE
        while len(living) < len(marks) and time.monotonic() < end:
            if self.store.check(["ended"]):
                return self.store.get("ended").decode()
            time.sleep(INTERVAL)
            marks = self._marks()
            living |= {r for r, mark in enumerate(marks) if mark.state == LEAVING or mark.beats != first[r].beats}
        lost = [rank for rank in range(len(marks)) if rank not in living] or self._held_up(marks)
        missing = f"missing: {listed([self._last_seen(rank) for rank in lost])}"
        return self._leave("failure", f"{failed}; {missing if lost else LOST_CONNECTION + what}", lost)

    def _held_up(self, marks: Sequence[Mark]) -> list[int]:
        """The ranks that live outside the collectives and have started the fewest; none where all have as many."""
        busy = {rank: mark.calls for rank, mark in enumerate(marks) if mark.state == BUSY and mark.calls < self._calls}
        return [rank for rank, calls in busy.items() if calls == min(busy.values())]

    def _marks(self) -> list[Mark]:
        keys = [f"mark/{rank}" for rank in range(self._layout.world)]
        if self.store.check(keys):
            return [Mark(*json.loads(mark)) for mark in self.store.multi_get(keys)]
        there = [self.store.check([key]) for key in keys]  # a rank may have ended before its first
        return [Mark(*json.loads(self.store.get(k))) if t else Mark() for k, t in zip(keys, there, strict=True)]

    def _last_seen(self, rank: int) -> str:
        key = f"step/{rank}"
        step = self.store.get(key).decode() if self.store.check([key]) else "0"
        where = f"rank {rank}, {self._meeting.hosts[rank]}"
        return f"member {self._layout.identity_of(rank)} ({where}, last seen at step {step})"
