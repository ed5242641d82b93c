"""One rank of a world that does not exist, on torch's fake backend: every collective gives back the rank's own value.

It shows how a rank is built, what it sends and how long it computes; never what its peers would have sent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dist_dash.ranks.diagnosis import Diagnosis
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.meeting import Meeting
from dist_dash.ranks.peers import PendingPeers, PendingStack, View
from dist_dash.ranks.transport import Transfer, Transport

Pending = TypeVar("Pending", PendingPeers, PendingStack)


@dataclass
class Sent:
    """What a rank has sent in one kind of collective.

    Args:
        calls: how many collectives.
        bytes: of its own contributions.
    """

    calls: int = 0
    bytes: int = 0

    def add(self, values: Tensor) -> None:
        """Count a collective."""
        self.calls += 1
        self.bytes += values.nbytes


class CountingTransport(Transport):
    """A transport that counts what is sent."""

    def __init__(self, like: Transport, backend: str) -> None:
        super().__init__(like.group, like.size, backend, lambda call: call())
        self.gathered, self.summed = Sent(), Sent()

    def all_gather(self, values: Tensor) -> Transfer:
        self.gathered.add(values)
        return super().all_gather(values)

    def all_reduce(self, values: Tensor) -> Transfer:
        self.summed.add(values)
        return super().all_reduce(values)

    def sum_(self, values: Tensor) -> Transfer:
        self.summed.add(values)
        return super().sum_(values)


class ImaginedExchange(Exchange):
    """The exchange of a rank without its peers; `between_members` and `between_replicas` count, `awaited` has times.

    Attributes: `awaited`, for each exchange of predictions when it was started and when its result was first asked for,
    on `time.perf_counter`; kept while `watching`, which makes the host wait for the device at both.
    """

    def __enter__(self) -> ImaginedExchange:
        # Registers the backend; not at the head of the file, because it is torch's own test support.
        from torch.testing._internal.distributed.fake_pg import FakeStore

        store, layout = dist.HashStore(), self.layout
        meeting = Meeting(store, lambda: store, "imagined", [layout.host] * layout.world)
        self._diagnosis = Diagnosis(meeting, layout, self.deadline)
        self._join(FakeStore(), timedelta(seconds=self.deadline))
        self._members = self.between_members = CountingTransport(self._members, layout.backend)
        self._replicas = self.between_replicas = CountingTransport(self._replicas, layout.backend)
        self.watching, self.awaited = False, list[tuple[float, float]]()
        return self

    def __exit__(self, *_: object) -> None:
        self._diagnosis.close()
        dist.destroy_process_group()

    def gather(self, logits: Tensor, views: Sequence[View] = ("logits",)) -> PendingPeers:
        return self._watched(super().gather(logits, views))

    def stack(self, values: Tensor) -> PendingStack:
        return self._watched(super().stack(values))

    def now(self) -> float:
        """The time, once the device has done what was queued."""
        if self.layout.device.type == "cuda":
            torch.cuda.synchronize(self.layout.device)
        return time.perf_counter()

    def _backends(self) -> tuple[str, str]:
        return "fake", "fake"

    def _watched(self, pending: Pending) -> Pending:
        if not self.watching:
            return pending
        started, wait, asked = self.now(), pending.wait, list[float]()

        def watched_wait():  # type: ignore[no-untyped-def]  # of the same type as `wait`
            if not asked:
                asked.append(self.now())
                self.awaited.append((started, asked[0]))
            return wait()

        pending.wait = watched_wait  # type: ignore[method-assign]
        return pending
