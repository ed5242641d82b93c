"""Everything that crosses between ranks: predictions between members, gradients between replicas, flags between all.

The number, order and shape of the collectives depend on the step index alone, never on a member's data. Beside
`transport`, nothing in the package calls `torch.distributed` (DeepSpeed does, on the group that it is handed).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dist_dash.errors import BadInput, OutOfTime, RunFailed, everywhere, first_line, own_code, require_positive, said
from dist_dash.ranks.buckets import Mean, buckets_of
from dist_dash.ranks.clock import Clock
from dist_dash.ranks.diagnosis import Diagnosis
from dist_dash.ranks.host import problem_of_host
from dist_dash.ranks.layout import Layout
from dist_dash.ranks.meeting import meet
from dist_dash.ranks.peers import PendingPeers, PendingStack, View
from dist_dash.ranks.transport import Transfer, Transport

T = TypeVar("T")


class PendingMaximum:
    """Whole numbers of all ranks on their way.

    Args:
        values: this rank's; the maximum once they have arrived.
        arrive: waits for that.
    """

    def __init__(self, values: Tensor, arrive: Callable[[], object]) -> None:
        self._values, self._arrive = values, arrive

    def wait(self) -> list[int]:
        """The element-wise maximum over all ranks."""
        self._arrive()
        found: list[int] = self._values.tolist()
        return found


class Exchange:
    """The process groups of one rank and what they are used for; a context manager that joins and leaves them.

    Args:
        layout: who this rank is.
        mode: `gather` collects every member's logits; `reduce` sums them: memory does not grow with the members.
        deadline: seconds after which a collective gives up and names who is missing.
        stop: the signal by which this rank was asked to stop; None: it was not.
    """

    def __init__(
        self,
        layout: Layout,
        mode: Literal["gather", "reduce"] = "gather",
        deadline: float = 600.0,
        stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        require_positive("checks.deadline", deadline)
        self.layout, self.mode, self.deadline, self._stop = layout, mode, deadline, stop
        self.clock = Clock(on_stream=layout.backend == "nccl")

    def __enter__(self) -> Exchange:
        layout, timeout = self.layout, timedelta(seconds=self.deadline)
        if layout.device.type == "cuda":
            torch.cuda.set_device(layout.device)
        meeting = meet(layout, self.deadline, problem_of_host(layout.backend))
        self._diagnosis = Diagnosis(meeting, layout, self.deadline, self._stop)
        self._guarded(lambda: self._join(dist.PrefixStore("world", meeting.connect()), timeout))
        return self

    def _join(self, store: dist.Store, timeout: timedelta) -> None:
        layout = self.layout
        store.set_timeout(timeout)
        backend, control = self._backends()
        dist.init_process_group(backend, store=store, rank=layout.rank, world_size=layout.world, timeout=timeout)
        # Flags and checks have a gloo group of their own: control never waits behind the accelerator's stream.
        self._control = dist.new_group(backend=control, timeout=timeout)
        # NCCL's own watchdog ends the process without a word that names anybody: `await_device` comes before it.
        later = timeout + timedelta(seconds=60) if layout.backend == "nccl" else timeout
        members = [dist.new_group(layout.exchange_ranks(r), timeout=later) for r in range(layout.replicas)]
        firsts = range(0, layout.members, layout.members_per_rank)
        replicas = {m: dist.new_group(layout.member_ranks(m), timeout=later) for m in firsts}
        self.replica_group = replicas[layout.member]
        self._members = Transport(members[layout.replica], len(firsts), layout.backend, self._guarded)
        self._replicas = Transport(self.replica_group, layout.replicas, layout.backend, self._guarded)

    def _backends(self) -> tuple[str, str]:
        """Of all groups, and of the one for flags and checks."""
        return "cpu:gloo,cuda:nccl" if self.layout.backend == "nccl" else "gloo", "gloo"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # After a failure the peers may be gone, and leaving the groups in order would wait for them.
        if error is None:
            self._guarded(lambda: dist.barrier(group=self._control))
            self._diagnosis.close()
            dist.destroy_process_group()
            return
        if isinstance(error, Exception) and not (self._diagnosis.made or getattr(error, "everywhere", False)):
            self._diagnosis.leave_error(error)
        self._diagnosis.close(patience=0.0)

    @property
    def step(self) -> int:
        """The update that is being made; for messages."""
        return self._diagnosis.step

    @step.setter
    def step(self, step: int) -> None:
        self._diagnosis.begin(step)

    @property
    def lost(self) -> list[int]:
        """The ranks that were missing when an exchange did not complete."""
        return self._diagnosis.lost

    @property
    def stop_asked_for(self) -> str | None:
        """The signal by which some rank was asked to stop, also one that waits in a collective; None: not yet."""
        return self._diagnosis.stop_asked_for()

    # -- predictions, between members ------------------------------------------------------------------------------

    @property
    def members(self) -> int:
        """How many members exchange."""
        return self.layout.members

    def gather(self, logits: Tensor, views: Sequence[View] = ("logits",)) -> PendingPeers:
        """Start sharing this member's logits `[n, C]`; overlap it with a backward, then `wait()` for the peers'.

        A rank that trains several members shares theirs together, `[k, n, C]`; each has the others here for peers too.
        `views` are the averages that the caller will ask for.
        """
        own = self.layout.own_members if self.layout.members_per_rank > 1 else self.layout.member
        return PendingPeers(self._members, logits.detach(), own, views, self.mode, self.clock)

    def stack(self, values: Tensor) -> PendingStack:
        """Start sharing this member's `values` (equal shapes); `wait()` for every member's, and for who is finite.

        A rank that trains several members shares `[k, …]`.
        """
        shape = values.shape[1:] if self.layout.members_per_rank > 1 else values.shape
        return PendingStack(self._members, values.detach(), shape, self.clock)

    def sum_over_members(self, value: Tensor) -> Tensor:
        """The sum over the members of this exchange group of one number, 0-dimensional or `[k]`; 0-dimensional."""
        transfer = self._members.all_reduce(value.detach().sum().reshape(1))
        transfer.landed()
        return transfer.wait()[0]

    # -- gradients and statistics, between the replicas of a member ------------------------------------------------

    def start_mean_over_replicas_(self, values: Tensor, travel: torch.dtype | None = None) -> Transfer:
        """Start averaging `values` (contiguous) in place; nothing may touch them before `wait()`.

        `travel`: a smaller type in which they are sent and added.
        """
        if travel is not None:
            small = self._replicas.sum_(values.div_(self.layout.replicas).to(travel))  # fp16 may not hold the sum
            return Transfer(lambda: values.copy_(small.wait()), small.landed)
        summed = self._replicas.sum_(values)
        return Transfer(lambda: summed.wait().div_(self.layout.replicas), summed.landed)

    def mean_over_replicas_(self, tensors: Sequence[Tensor], megabytes: float = 25.0) -> None:
        """Average `tensors` in place over the replicas of this member, in buckets: two of them are copied at a time."""
        if self.layout.replicas == 1:
            return
        waiting: deque[tuple[list[Tensor], Mean]] = deque()
        ordered = sorted(tensors, key=lambda t: str(t.dtype))
        for positions in buckets_of(ordered, megabytes):
            group = [ordered[i] for i in positions]
            mean = Mean([range(len(group))], group, group.__getitem__, self.start_mean_over_replicas_)
            mean.send_rest()
            waiting.append((group, mean))
            if len(waiting) > 1:
                _land(*waiting.popleft())
        for group, mean in waiting:
            _land(group, mean)

    def mean_over_replicas(self, value: Tensor) -> Tensor:
        """The mean of a small tensor (a gate, a matrix of distances) over the replicas of this member, in float64.

        A decision that a method takes must rest on such a number: replicas then decide alike, also where a branch
        holds a collective.
        """
        mean = value.detach().double().clone()
        self.mean_over_replicas_([mean])
        return mean

    def await_device(self, done: torch.cuda.Event | None = None) -> None:
        """Wait until the accelerator has done what was queued; with the deadline, which a wait on NCCL lacks.

        Args:
            done: wait for this event alone.

        Raises:
            RunFailed: the deadline has passed; the text names who is missing.
        """
        if self.layout.backend != "nccl":
            if done is not None:
                done.synchronize()
            return
        if done is None:
            done = torch.cuda.Event()
            done.record()
        end = time.monotonic() + self.deadline
        with self._diagnosis.waiting():
            while not done.query():
                if time.monotonic() > end:
                    raise self._diagnosis.reason()
                time.sleep(1e-4)

    # -- flags and checks, between all ranks -----------------------------------------------------------------------

    def start_maximum(self, flags: Sequence[int]) -> PendingMaximum:
        """Start finding the element-wise maximum of whole numbers over all ranks; `wait()` for it after other work.

        The calls of this section pair up among ranks in the order in which each rank starts them. This one may be under
        way while others come and go, or never be awaited; but where it starts must depend on the step index alone.
        """
        values = torch.tensor(flags, dtype=torch.int64)
        if self.layout.world == 1:
            return PendingMaximum(values, lambda: None)
        maximum, group = dist.ReduceOp.MAX, self._control
        work = self._guarded(lambda: dist.all_reduce(values, maximum, group=group, async_op=True))
        return PendingMaximum(values, lambda: self._guarded(work.wait))

    def maximum(self, flags: Sequence[int]) -> list[int]:
        """The element-wise maximum of whole numbers over all ranks."""
        return self.start_maximum(flags).wait()

    def collect(self, value: T) -> list[T]:
        """Every rank's `value` (any small picklable object), in rank order, on every rank."""
        values: list[Any] = [None] * self.layout.world
        self._guarded(lambda: dist.all_gather_object(values, value, group=self._control))
        return values

    def bring_to_first(self, values: Tensor) -> Tensor | None:
        """Every rank's `values` (host, equal shapes) as `[world, …]` on rank 0; None elsewhere."""
        first = self.layout.rank == 0
        received = [torch.empty_like(values) for _ in range(self.layout.world)] if first else None
        self._guarded(lambda: dist.gather(values.contiguous(), received, dst=0, group=self._control))
        return torch.stack(received) if received is not None else None

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """All ranks succeed at the body, or all leave with the first failing rank's error.

        Raises:
            BadInput, RunFailed: on every rank alike; the text names the rank where not all have failed.
            OutOfTime: on the rank that has waited so long; the others wait no longer either.
            Exception: on the first rank on which the user's own code raised it.
        """
        problem: tuple[str, str] | None = None
        cause: Exception | None = None
        try:
            yield
        except OutOfTime:
            raise
        except BadInput as error:
            problem, cause = ("input", str(error)), error
        except Exception as error:
            ours = isinstance(error, OSError | RuntimeError | MemoryError) and own_code(error) is None
            explained = ours or isinstance(error, RunFailed)
            problem, cause = ("failure" if explained else "raised", f"{what}: {first_line(error)}"), error
        problems = self.collect(problem)
        failed = [(rank, *p) for rank, p in enumerate(problems) if p is not None]
        if not failed:
            return
        rank, kind, text = failed[0]
        if kind == "raised":  # of the user's own code, or a fault here: with its traceback, on the first such rank
            if cause is None or rank != self.layout.rank:
                raise said(everywhere(RunFailed(text))) from cause
            raise everywhere(cause)
        if len(failed) < len(problems) and (rank, kind) != (0, "input"):  # what rank 0 refuses, it checks for all
            text = f"{text} ({self._diagnosis.name(rank)})"
        raise everywhere(BadInput(text) if kind == "input" else RunFailed(text)) from cause

    def _guarded(self, call: Callable[[], T]) -> T:
        """Run a collective; where it fails or exceeds the deadline, say who is missing, or what a rank ended with."""
        with self._diagnosis.waiting():
            try:
                return call()
            except RuntimeError as error:
                raise self._diagnosis.reason(error) from error


def _land(tensors: list[Tensor], mean: Mean) -> None:
    torch._foreach_copy_(tensors, list(mean.wait().values()))
