"""What all ranks settle before every update with one small collective: stop, skipped updates, same samples.

Before it, because a rank whose samples do not come can take no part in the update: all stop at the same step with it.
It costs no wait: the samples of the next update are fetched, and the collective about it is started, before the present
update; it is awaited after that. What all learn is therefore one update old: a stop that was asked for during an update
takes effect after the next one.

Evaluations, checkpoints and the record use the same group in between. All ranks start the collective at the same place
of the loop, directly before the update, so that the order is one everywhere. Where the loop ends after that update (a
stop during an evaluation, no progress for long), the collective has been started by all and is awaited by none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dist_dash.data.host_batch import HostBatch, sample_hash
from dist_dash.data.time_limit import Interrupted
from dist_dash.errors import RunFailed, everywhere
from dist_dash.ranks.exchange import Exchange, PendingMaximum
from dist_dash.runs.preemption import Stopped, StopRequest

NONE = -(2**63)  # where no hash is compared: below every hash and its negative


@dataclass
class _Asked:
    """An update that the ranks agree on.

    Args:
        step: its number.
        host: this rank's samples of it; None where they did not come before a stop was asked for.
        samples: hash of their ids (63 bits); 0 where members are not compared.
        flags: of all ranks, on their way.
    """

    step: int
    host: HostBatch | None
    samples: int
    flags: PendingMaximum


class Agreement:
    """One rank's part in it.

    Args:
        exchange: between all ranks.
        stop: this rank's stop request.
        max_skipped: updates in a row that a member may skip.
        same_samples: whether members must see the same samples.
    """

    def __init__(self, exchange: Exchange, stop: StopRequest, max_skipped: int, same_samples: bool) -> None:
        self._exchange, self._stop, self._max_skipped, self._same_samples = exchange, stop, max_skipped, same_samples
        self._asked: _Asked | None = None

    def ask(self, batches: Iterator[HostBatch], step: int, skipped_in_a_row: Sequence[int], compared: bool) -> None:
        """Fetch this rank's samples of an update, and start to agree on it.

        Args:
            batches: where they come from.
            step: number of the update.
            skipped_in_a_row: updates that each member of this rank has skipped for a non-finite gradient.
            compared: whether members' samples are compared at this step.
        """
        layout, host, samples = self._exchange.layout, None, 0
        with self._exchange.clock.waiting("data", on_host=True), contextlib.suppress(Interrupted):
            host = next(batches)
        too_often = [times >= self._max_skipped for times in skipped_in_a_row]
        stuck = layout.identity + too_often.index(True) + 1 if any(too_often) else 0
        highest_of, minus_lowest_of = [NONE] * layout.replicas, [NONE] * layout.replicas
        if host is not None and compared and self._same_samples:
            samples = sample_hash(host.ids)
            highest_of[layout.replica], minus_lowest_of[layout.replica] = samples, -samples
        flags = self._exchange.start_maximum([self._stop.level, stuck, *highest_of, *minus_lowest_of])
        self._asked = _Asked(step, host, samples, flags)

    def next_batch(self) -> HostBatch:
        """This rank's samples of the update that was asked for, once all ranks have theirs and go on.

        Raises:
            RunFailed: a member has skipped too many updates in a row, or members saw different samples.
            Stopped: all ranks agreed to stop; nothing has changed.
        """
        asked, layout = self._asked, self._exchange.layout
        assert asked is not None
        with contextlib.nullcontext() if layout.world == 1 else self._exchange.clock.waiting("wait", on_host=True):
            stop, stuck, *hashes = asked.flags.wait()
        if stuck:
            times = f"{self._max_skipped} updates in a row"
            text = f"member {stuck - 1}: no finite gradient for {times}; lower its learning rate"
            raise everywhere(RunFailed(text))
        if stop or asked.host is None:
            raise Stopped  # a rank without samples has compared none
        # The maximum of h and of −h are each other's negative exactly where all members of a replica index agree.
        for high, low in zip(hashes[: layout.replicas], hashes[layout.replicas :], strict=True):
            if high != NONE and high != -low:
                self._name_the_odd_one(asked.step, asked.samples)
        return asked.host

    def stop_now(self) -> bool:
        """Whether any rank was asked to stop; for loops outside the training step."""
        return self._exchange.maximum([self._stop.level])[0] > 0

    def reason(self) -> str:
        """The signal that all ranks stop for, when they have agreed to."""
        return self._stop.named(self._exchange.maximum([self._stop.level])[0])

    def _name_the_odd_one(self, step: int, samples: int) -> None:
        layout = self._exchange.layout
        hashes = self._exchange.collect(samples)
        for replica in range(layout.replicas):
            group = [hashes[rank] for rank in layout.exchange_ranks(replica)]
            usual = max(group, key=group.count)
            odd = [member for member, value in enumerate(group) if value != usual]
            if odd:
                rank = layout.exchange_ranks(replica)[odd[0]]
                text = (
                    f"step {step}: member {layout.identity_of(rank)} (rank {rank}) reads other samples than its peers; "
                    "members must see the same samples in the same order"
                )
                raise everywhere(RunFailed(text))
