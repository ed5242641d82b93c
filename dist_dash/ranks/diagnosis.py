"""Why a collective failed: who is missing, or which error another rank has ended with.

Every rank leaves in the rendezvous' store at which update it is, how many collectives it has started and, where it ends
alone, its last error. Between updates a thread writes the second a few times a second: the store at every collective
would cost more than the collective.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from dist_dash.errors import BadInput, RunFailed, first_line, own_code, said
from dist_dash.ranks.layout import Layout

INTERVAL = 0.2  # seconds between two marks
NOT_MISSING = 2**62


class Diagnosis:
    """This rank's marks in the store, and the reading of all ranks' marks after a failure.

    Args:
        store: of the rendezvous.
        layout: who this rank is.
        deadline: of a collective, in seconds.
    """

    def __init__(self, store: Any, layout: Layout, deadline: float) -> None:
        self.store, self._layout, self._deadline = store, layout, deadline
        self.step = 0
        self.made = False
        """Whether this rank has said why a collective failed."""
        self._calls, self._left = 0, (-1, -1)
        self._end, self._writing = threading.Event(), threading.Lock()
        self._write()
        self._writer = threading.Thread(target=self._keep_writing, daemon=True)
        self._writer.start()

    def begin(self, step: int) -> None:
        """An update begins."""
        self.step = step
        with contextlib.suppress(RuntimeError):  # the store's host is gone: the collectives will say so
            self._write()

    def count(self) -> None:
        """Another collective is about to start."""
        self._calls += 1

    def close(self, patience: float = INTERVAL + 1.0) -> None:
        """Write no more marks; waits so many seconds for one that is being written."""
        self._end.set()
        self._writer.join(patience)

    def leave_error(self, error: Exception) -> None:
        """Leave the error with which this rank ends alone, for the others to say; the first rank prints a traceback."""
        known = isinstance(error, BadInput | RunFailed) or (isinstance(error, OSError) and own_code(error) is None)
        kind = "input" if isinstance(error, BadInput) else "failure" if known else "raised"
        text = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
        with contextlib.suppress(RuntimeError):  # the store's host may be gone; nobody is there to read it then
            self.store.set(f"last_error/{self._layout.rank}", f"{kind} {text}")
            if kind == "raised" and self.store.add("raised", 1) > 1:
                said(error)

    def reason(self) -> BadInput | RunFailed:
        """Why a collective failed, by what each rank has left in the store; takes a few seconds."""
        self.made = True
        failed = f"step {self.step}: an exchange did not complete"
        left = self._read()
        if left is None:
            return RunFailed(f"{failed}; the host of the rendezvous (rank 0, or the launcher) does not answer")
        if self._layout.rank == 0:
            time.sleep(2.0)  # this process may host the store, and the others are reading it
        behind = []
        for rank, (last_error, mark) in enumerate(left):
            if last_error is not None:
                kind, text = last_error.split(" ", 1)
                found = (BadInput if kind == "input" else RunFailed)(f"{text} ({self.name(rank)})")
                return said(found) if kind == "raised" else found
            calls, step, host = mark.split(" ", 2)
            if int(calls) < self._calls:
                which = f"member {self._layout.identity_of(rank)}"
                behind.append(f"{which} (rank {rank}, {host}, last seen at step {step})")
        missing = "missing: " + ", ".join(behind) if behind else "a peer ended or a connection broke during it"
        return RunFailed(f"{failed}; {missing}")

    def name(self, rank: int) -> str:
        """What messages call a rank."""
        return f"rank {rank}, member {self._layout.identity_of(rank)}"

    def _keep_writing(self) -> None:
        while not self._end.wait(INTERVAL):
            with contextlib.suppress(RuntimeError):  # the store's host is gone: the collectives will say so
                self._write()

    def _write(self) -> None:
        with self._writing:  # an older mark must not come after a newer one
            mark = (NOT_MISSING if self.made else self._calls), self.step
            if mark != self._left:
                self.store.set(f"at/{self._layout.rank}", f"{mark[0]} {mark[1]} {self._layout.host}")
                self._left = mark

    def _read(self) -> list[tuple[str | None, str]] | None:
        """Each rank's last error, if it left one, and its last mark; None where the store's host does not answer."""
        found: list[tuple[str | None, str]] = []

        def left(what: str) -> str | None:
            return self.store.get(what).decode() if self.store.check([what]) else None

        def read() -> None:
            with contextlib.suppress(RuntimeError):
                self._write()  # a rank that looks for the missing is not missing itself
                time.sleep(1.0)  # ranks that fail for the same reason are still on their way to this line
                ranks = range(self._layout.world)
                found.extend((left(f"last_error/{r}"), left(f"at/{r}") or "0 none host unknown") for r in ranks)

        # A store has no deadline of its own: one whose host hangs would hang its readers.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(2.0 + min(self._deadline, 10.0))
        return found if len(found) == self._layout.world else None
