"""What every update rule is: one class in one file, its constructor its configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.ranks.exchange import Exchange

Measured = dict[str, Tensor]


class Passes(NamedTuple):
    """What an update costs, per micro-batch: `forwards` F and `backwards` G."""

    forwards: int
    backwards: int


class Method(ABC):
    """Turns one batch into one update of one member.

    A new method is one new file with one subclass: its typed and documented `__init__` arguments are its fields in the
    recipe (`--method Name --method.field value`). What a subclass may use is all in `Member` (forward, gradient,
    perturbed, backward, descend, step), `Exchange` (gather, stack, sum_over_members) and `Batch`. Two rules keep it
    correct on many ranks: the collectives that `update` starts depend on the step index alone, never on data; and
    everything that lives longer than a step is in `state_dict`, so that a resumed run equals the uninterrupted one.
    """

    exchanges = False
    """Whether members exchange predictions: they must then see the same samples in the same order."""

    @property
    def passes(self) -> Passes | None:
        """What an update costs; None where a method does not say."""
        return None

    def copies(self, alone: bool) -> float:
        """Vectors as long as all parameters that an update holds at most, beside the weights and the descent gradient.

        A plan estimates memory by it. The default is DASH's number, the largest of this package.

        Args:
            alone: whether the member has no peers.
        """
        return 4.0

    def check(self, members: int, classes: int, mixed: bool) -> None:  # noqa: B027
        """Refuse what cannot work before anything starts; `mixed`: mixup gives samples two true classes.

        Raises:
            BadInput: with the field, the value and what is allowed.
        """

    @abstractmethod
    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        """Do one update; returns 0-dimensional tensors to record (`loss`, `accuracy`, …), means over the batch."""

    def state_dict(self) -> dict[str, Any]:
        """What a method remembers between steps (tensors, numbers, strings); nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `state_dict` gave; its tensors are on the host."""


class Totals:
    """Adds up measured values over the micro-batches of one update."""

    def __init__(self, micro_batches: int) -> None:
        self._share, self._sums = 1 / micro_batches, dict[str, Tensor]()

    def add(self, **values: Tensor) -> None:
        """Add one micro-batch's means."""
        for name, value in values.items():
            term = self._share * value.detach()
            self._sums[name] = self._sums[name] + term if name in self._sums else term

    def __getitem__(self, name: str) -> Tensor:
        return self._sums[name]

    def measured(self, **more: Tensor) -> Measured:
        """All means, and values that belong to the update as a whole."""
        return {**self._sums, **more}
