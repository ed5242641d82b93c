"""Who has come: all ranks of one attempt of the launcher, and no rank of an earlier one.

Where the launcher hosts the store, it outlives the ranks (`torchrun --max-restarts`): every attempt has its own keys.
Rank 0 draws the attempt's number: where several agents restart their ranks, each counts restarts for itself.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch.distributed as dist

from dist_dash.errors import BadInput, RunFailed, everywhere, first_line
from dist_dash.ranks.layout import Layout
from dist_dash.ranks.store import host_of_store, open_store, within

STAYING = 3.0  # seconds that a rank which hosts the store stays for the others to read why it ends


@dataclass(frozen=True)
class Meeting:
    """What the ranks of one attempt know once all have come.

    Args:
        store: on rank 0 it may be the host of all: it lives as long as this.
        reach: opens another connection to the store.
        keys: prefix of the attempt's.
        hosts: every rank's machine.
    """

    store: dist.Store
    reach: Callable[[], dist.Store]
    keys: str
    hosts: list[str]

    def connect(self) -> dist.Store:
        """Another connection to the attempt's keys."""
        return dist.PrefixStore(self.keys, self.reach())


def meet(layout: Layout, deadline: float, problem: str = "") -> Meeting:
    """Wait until all ranks have come.

    Args:
        layout: who this rank is.
        deadline: seconds to wait for the others.
        problem: why this rank cannot take part, if so: then none does.

    Raises:
        BadInput: the ranks cannot work together; all say the same.
        RunFailed: somebody has not come; the text names who.
    """
    failed = f"the {layout.world} ranks did not find each other within {deadline:g} s"
    end = time.monotonic() + deadline
    try:
        connect, store = open_store(layout.rank, deadline)
        arrival = _Arrival(store, layout, problem, end)
        call = arrival.judge if layout.rank == 0 else arrival.wait_for_verdict
        verdict = within(deadline + 3 * STAYING, call)
    except (OSError, dist.DistError) as error:
        raise RunFailed(f"{failed}; {lost_host(layout)} ({first_line(error)})") from error
    if verdict.absent:
        absent = listed([f"member {layout.identity_of(rank)} (rank {rank})" for rank in verdict.absent])
        raise RunFailed(f"{failed}; missing: {absent}")
    if verdict.problem:
        raise everywhere(BadInput(verdict.problem))
    return Meeting(store, connect, verdict.keys, verdict.hosts)


def lost_host(layout: Layout) -> str:
    """That the host of the store does not answer."""
    if host := host_of_store():
        return f"{host}, where ranks leave words for each other, does not answer"
    return f"missing: member {layout.identity_of(0)} (rank 0), which hosts the rendezvous"


def listed(ranks: Sequence[str]) -> str:
    """At most eight of them, and how many more there are."""
    return ", ".join(ranks[:8]) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


@dataclass
class _Verdict:
    """What rank 0 finds: whose words it has read, and who or what keeps the ranks from starting."""

    keys: str
    tokens: dict[str, str] = field(default_factory=dict)
    hosts: list[str] = field(default_factory=list)
    absent: list[int] = field(default_factory=list)
    problem: str = ""


class _Arrival:
    """This rank's part in finding out who has come.

    Args:
        store: of all attempts.
        layout: who this rank is.
        problem: why it cannot take part, if so.
        end: when to give up, on the monotonic clock.
    """

    def __init__(self, store: dist.Store, layout: Layout, problem: str, end: float) -> None:
        self._store, self._layout, self._end = store, layout, end
        self._token = uuid.uuid4().hex  # no other attempt has it
        words = {"host": layout.host, "backend": layout.backend, "problem": problem, "token": self._token}
        self._words = json.dumps(words)

    def judge(self) -> _Verdict:
        """Rank 0's part: read what everybody has left, and leave the verdict."""
        verdict = _Verdict(f"attempt_{self._store.add('attempts', 1)}")
        keys = dist.PrefixStore(verdict.keys, self._store)
        keys.set("arrived/0", self._words)
        ranks = range(self._layout.world)
        for _ in _until(self._end):
            verdict.absent = [rank for rank in ranks if not keys.check([f"arrived/{rank}"])]
            if not verdict.absent:
                break
        present = [rank for rank in ranks if rank not in verdict.absent]
        words = {rank: json.loads(keys.get(f"arrived/{rank}")) for rank in present}
        verdict.tokens = {str(rank): said["token"] for rank, said in words.items()}
        verdict.hosts = [said["host"] for said in words.values()]
        verdict.problem = _first_problem(words)
        keys.set("verdict", json.dumps(asdict(verdict)))
        if verdict.absent or verdict.problem:  # this process may host the store
            wait_for(lambda: keys.check([f"told/{rank}" for rank in present if rank]) or len(present) == 1)
        return verdict

    def wait_for_verdict(self) -> _Verdict:
        """The part of the others: leave words in the newest attempt until its rank 0 has read them."""
        newest, keys = 0, None
        for _ in _until(self._end + STAYING):
            attempt = self._store.add("attempts", 0)
            if keys is None or attempt > newest:
                newest, keys = attempt, dist.PrefixStore(f"attempt_{attempt}", self._store)
                keys.set(f"arrived/{self._layout.rank}", self._words)
            if keys.check(["verdict"]):
                verdict = _Verdict(**json.loads(keys.get("verdict")))
                if verdict.tokens.get(str(self._layout.rank)) == self._token:
                    keys.set(f"told/{self._layout.rank}", "")
                    return verdict
        assert keys is not None
        absent = [rank for rank in range(self._layout.world) if not keys.check([f"arrived/{rank}"])]
        return _Verdict("", absent=absent or [0])  # an attempt whose rank 0 ended before it judged


def _until(end: float) -> Iterator[None]:
    """Turns with a pause between them, ever longer ones, until `end`."""
    pause = 0.005
    while True:
        yield
        if time.monotonic() > end:
            return
        time.sleep(pause)
        pause = min(1.3 * pause, 0.2)


def wait_for(condition: Callable[[], bool]) -> None:
    """Give the others a few seconds to have read something."""
    for _ in _until(time.monotonic() + STAYING):
        if condition():
            return


def _first_problem(words: dict[int, dict[str, str]]) -> str:
    backends = [said["backend"] for said in words.values()]
    for rank, said in words.items():
        if said["problem"]:
            alike = all(other["problem"] == said["problem"] for other in words.values())
            return said["problem"] + ("" if alike else f" (rank {rank}, {said['host']})")
        if said["backend"] != backends[0]:  # their groups would never form
            what = f"rank 0 would use {backends[0]}, rank {rank} {said['backend']}"
            return f"ranks: {what}; every node must have as many ranks as GPUs, or all must share"
    return ""
