"""What all ranks settle before every update with one small collective: stop, skipped updates, same samples.

Before it, because a rank whose samples do not come can take no part in the update: all stop at the same step with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dist_dash.data.host_batch import HostBatch, sample_hash
from dist_dash.data.time_limit import Interrupted
from dist_dash.errors import RunFailed, everywhere
from dist_dash.ranks.exchange import Exchange
from dist_dash.runs.preemption import Stopped, StopRequest


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

    def next_batch(self, batches: Iterator[HostBatch], step: int, skipped_in_a_row: int, compared: bool) -> HostBatch:
        """This rank's samples of an update, once all ranks have theirs and go on.

        Args:
            batches: where they come from.
            step: number of the update.
            skipped_in_a_row: updates that this rank's member skipped for a non-finite gradient.
            compared: whether members' samples are compared at this step.

        Raises:
            RunFailed: a member has skipped too many updates in a row, or members saw different samples.
            Stopped: all ranks agreed to stop; nothing has changed.
        """
        clock, host = self._exchange.clock, None
        with clock.waiting("data", on_host=True), contextlib.suppress(Interrupted):
            host = next(batches)
        samples = sample_hash(host.ids) if host is not None and compared else None
        alone = self._exchange.layout.world == 1
        with contextlib.nullcontext() if alone else clock.waiting("wait", on_host=True):
            stop = self.settle(step, skipped_in_a_row, samples)
        if stop or host is None:
            raise Stopped
        return host

    def settle(self, step: int, skipped_in_a_row: int, samples: int | None) -> bool:
        """Whether all ranks stop now; before the update for which they have their samples.

        Args:
            step: number of that update.
            skipped_in_a_row: updates that this rank's member skipped for a non-finite gradient.
            samples: hash of this step's sample ids (63 bits); None where this step is not compared.

        Raises:
            RunFailed: a member has skipped too many steps in a row, or members saw different samples.
        """
        layout = self._exchange.layout
        stuck = layout.identity + 1 if skipped_in_a_row >= self._max_skipped else 0
        lowest = -(2**63)
        highest_of, minus_lowest_of = [lowest] * layout.replicas, [lowest] * layout.replicas
        if samples is not None and self._same_samples:
            highest_of[layout.replica], minus_lowest_of[layout.replica] = samples, -samples
        stop, stuck, *hashes = self._exchange.maximum([self._stop.level, stuck, *highest_of, *minus_lowest_of])
        if stuck:
            times = f"{self._max_skipped} updates in a row"
            text = f"member {stuck - 1}: no finite gradient for {times}; lower its learning rate"
            raise everywhere(RunFailed(text))
        if stop:
            return True  # a rank without samples has compared none
        # The maximum of h and of −h are each other's negative exactly where all members of a replica index agree.
        for high, low in zip(hashes[: layout.replicas], hashes[layout.replicas :], strict=True):
            if high != lowest and high != -low:
                self._name_the_odd_one(step, samples or 0)
        return False

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
