"""What every update rule is: one class in one file, its constructor its configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from dist_dash.errors import require
from dist_dash.member.batch import Batch, MicroBatch, Progress
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.ranks.exchange import Exchange

Measured = dict[str, Tensor]
Samples = Callable[[str], Iterator[MicroBatch]]
"""A split's samples by its name (`train`, `validation`), not augmented, in evaluation order; this replica's share."""


class Method(ABC):
    """Turns one batch into one update of one member.

    A new method is one new file with one subclass: its typed and documented `__init__` arguments are its fields in the
    recipe (`--method Name --method.field value`). What a subclass may use:

    - `Batch`: micro-batches with their training loss (`micro.loss(logits)`), and `batch.progress`;
    - `Member`: forward, gradient, perturbed, backward, descend, step; names, kinds and parts of its parameters;
    - `Exchange`: gather and stack (started early, awaited late), sum_over_members, mean_over_replicas.

    Where it says which gradient completes a sum (`last` of `backward`, `mean` of `gradient`), replicas average that sum
    while it is computed.

    Three rules keep it correct on many ranks. The collectives that `update` starts depend on the step index alone,
    never on data; a branch that holds one is decided by a mean over replicas. Everything that lives longer than an
    update is in `state_dict`, so that a resumed run equals the uninterrupted one. And it changes only where
    `member.step()` says that the weights moved.
    """

    exchanges = False
    """Whether members exchange predictions: they must then see the same samples in the same order."""

    own_chance = False
    """Whether an update draws random numbers of each member's own: members that start equal then come to differ."""

    def copies(self, members: int) -> int:
        """Vectors as long as all parameters that an update holds at most, beside weights and descent gradient.

        Memory estimates rest on it. By default 4, what DASH holds.

        Args:
            members: that are trained together.
        """
        return 4

    def check(self, facts: RunFacts) -> None:  # noqa: B027
        """Refuse what cannot work before anything starts.

        Raises:
            BadInput: with the field, the value and what is allowed.
        """

    def before_epoch(self, epoch: int, member: Member, samples: Samples, exchange: Exchange) -> None:  # noqa: B027
        """Called before the first update of every epoch: for what needs a pass over the data."""

    @abstractmethod
    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        """Do one update; returns 0-dimensional tensors to record (`loss`, `accuracy`, …), means over the batch."""

    def restarted(self) -> None:  # noqa: B027
        """Called when the member's weights have started anew: whatever belongs to the old ones is to be dropped."""

    def state_dict(self) -> dict[str, Any]:
        """What a method remembers between updates (tensors, numbers, strings); nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `state_dict` gave; its tensors are on the host."""


class Totals:
    """Adds up measured values over the micro-batches of one update."""

    def __init__(self, micro_batches: int) -> None:
        self._micro_batches, self._sums = micro_batches, dict[str, Tensor]()

    def add(self, **values: Tensor) -> None:
        """Add one micro-batch's means."""
        for name, value in values.items():
            term = value.detach() if self._micro_batches == 1 else value.detach() / self._micro_batches
            self._sums[name] = self._sums[name] + term if name in self._sums else term

    def __getitem__(self, name: str) -> Tensor:
        return self._sums[name]

    def measured(self, **more: Tensor) -> Measured:
        """All means, and values that belong to the update as a whole."""
        return {**self._sums, **more}


def check_warmup(steps: int) -> None:
    """Raise `BadInput` unless `steps` can be the warm-up of a radius."""
    require(steps >= 0, "method.rho_warmup", steps, "a number of steps ≥ 0")


def warmed_up(rho: float, progress: Progress, warmup: int) -> float:
    """The radius ρ, growing linearly over the first `warmup` updates: `ρ · min(1, (step + 1) / warmup)`."""
    return rho * min(1.0, (progress.step + 1) / warmup) if warmup else rho
