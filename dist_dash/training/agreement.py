"""What all ranks settle at every step with one small collective behind the step: stop, skipped steps, same samples."""

from __future__ import annotations

from collections.abc import Callable

from dist_dash.errors import RunFailed, everywhere
from dist_dash.ranks.exchange import Exchange
from dist_dash.runs.preemption import STOP_SIGNALS, StopRequest


class Agreement:
    """Starts with the step, ends with it.

    Args:
        exchange: between all ranks.
        stop: this rank's stop request.
        max_skipped: updates in a row that a member may skip.
        same_samples: whether members must see the same samples.
    """

    def __init__(self, exchange: Exchange, stop: StopRequest, max_skipped: int, same_samples: bool) -> None:
        self._exchange, self._stop, self._max_skipped, self._same_samples = exchange, stop, max_skipped, same_samples
        self.stopped_by = ""
        """The signal that all ranks stop for, once they agreed to."""

    def start(self, skipped_in_a_row: int, samples: int | None) -> Callable[[], bool]:
        """Send this rank's flags; call the result at the end of the step: whether all ranks stop now.

        Args:
            skipped_in_a_row: updates that this rank's member skipped for a non-finite gradient.
            samples: hash of this step's sample ids (63 bits); None where this step is not compared.

        Raises:
            RunFailed: (from the result) a member has skipped too many steps in a row, or members saw different samples.
        """
        layout = self._exchange.layout
        stuck = layout.identity + 1 if skipped_in_a_row >= self._max_skipped else 0
        lowest = -(2**63)
        highest_of, minus_lowest_of = [lowest] * layout.replicas, [lowest] * layout.replicas
        if samples is not None and self._same_samples:
            highest_of[layout.replica], minus_lowest_of[layout.replica] = samples, -samples
        finish = self._exchange.start_maximum([self._stop.level, stuck, *highest_of, *minus_lowest_of])

        def settle() -> bool:
            stop, stuck, *hashes = finish()
            if stuck:
                times = f"{self._max_skipped} updates in a row"
                text = f"member {stuck - 1}: no finite gradient for {times}; lower its learning rate"
                raise everywhere(RunFailed(text))
            # The maximum of h and of −h are each other's negative exactly where all members of a replica index agree.
            for high, low in zip(hashes[: layout.replicas], hashes[layout.replicas :], strict=True):
                if high != lowest and high != -low:
                    self._name_the_odd_one(samples or 0)
            return self._noted(stop)

        return settle

    def stop_now(self) -> bool:
        """Whether any rank was asked to stop; for loops outside the training step."""
        return self._noted(self._exchange.start_maximum([self._stop.level])()[0])

    def _noted(self, level: int) -> bool:
        if level:
            self.stopped_by = STOP_SIGNALS[level - 1].name
        return level > 0

    def _name_the_odd_one(self, samples: int) -> None:
        layout = self._exchange.layout
        hashes = self._exchange.collect(samples)
        for replica in range(layout.replicas):
            group = [hashes[rank] for rank in layout.exchange_ranks(replica)]
            usual = max(group, key=group.count)
            odd = [member for member, value in enumerate(group) if value != usual]
            if odd:
                step, rank = self._exchange.step, layout.exchange_ranks(replica)[odd[0]]
                text = (
                    f"step {step}: member {layout.identity_of(rank)} (rank {rank}) reads other samples than its peers; "
                    "members must see the same samples in the same order"
                )
                raise everywhere(RunFailed(text))
