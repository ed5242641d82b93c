"""What every update rule is: one class in one file, its constructor its configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from torch import Tensor

from dist_dash.errors import require
from dist_dash.member.batch import Batch, MicroBatch, Progress
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector
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

    perturb = "all"
    """Which parameters its ascent moves; see `Member.ascending`."""

    stacked = False
    """Whether it updates several members of a rank at once: logits are `[k, n, C]` then, losses and norms `[k]`."""

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

    def check_network(self, member: Member) -> None:
        """Refuse what cannot work with the network and the optimizer that were built, before anything starts.

        Raises:
            BadInput: with the field, the value and what is allowed.
        """
        member.ascending(self.perturb)

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


def ascent(
    member: Member, batch: Batch, totals: Totals, ascent_sync: Literal["local", "mean"], perturb: str | None = None
) -> ParameterVector:
    """∇L(θ) over the micro-batches of an update: the first pass of most methods.

    Args:
        member: at θ.
        batch: the update's.
        totals: takes `loss` and `accuracy`.
        ascent_sync: `local`: of this replica's samples; `mean`: of those of all the member's replicas.
        perturb: the part that an ascent moves, see `Member.ascending`, and 0 elsewhere; None: the whole gradient.
    """
    g = ParameterVector([])
    for micro in batch:
        logits = member.forward(micro.x)
        loss = micro.loss(logits)
        mean = ascent_sync == "mean" and micro is batch.last
        if perturb is None:
            g = member.gradient(loss, onto=g, mean=mean)
        else:
            g = member.ascent_gradient(loss, perturb=perturb, onto=g, mean=mean)
        totals.add(loss=loss, accuracy=micro.correct(logits))
    return g


def gradient_at(
    epsilon: ParameterVector, member: Member, batch: Batch, totals: Totals, ascent_sync: Literal["local", "mean"]
) -> ParameterVector:
    """∇L(θ + ε) as a vector, for methods that combine gradients before they descend; `totals` takes `perturbed_loss`.

    Args:
        epsilon: ε.
        member: at θ.
        batch: the update's.
        totals: see above.
        ascent_sync: as in `ascent`.
    """
    g = ParameterVector([])
    with member.perturbed(epsilon):
        for micro in batch:
            loss = micro.loss(member.forward(micro.x))
            g = member.gradient(loss, onto=g, mean=ascent_sync == "mean" and micro is batch.last)
            totals.add(perturbed_loss=loss)
    return g


def backward_of_part(member: Member, micro: MicroBatch, weights: Tensor) -> Tensor | None:
    """Descend `Σ w_i ℓ_i` at the present weights, by a forward of the samples that have a weight.

    A single one goes with its whole micro-batch: batch norm cannot do with one sample.

    Args:
        member: at the weights in question.
        micro: the micro-batch.
        weights: w `[n]`, which add up to 1 over the micro-batches of the update, or to a share of it.

    Returns:
        The sum, a constant; None where no sample has a weight.
    """
    chosen = weights > 0
    number = int(chosen.sum())
    if number > 1:
        micro, weights = micro.subset(chosen), weights[chosen]
    if not number:
        return None
    loss = (weights * micro.loss(member.forward(micro.x), "none")).sum()
    member.backward(loss, share=1)
    return loss.detach()


def on_device_of(like: ParameterVector, kept: Sequence[Tensor]) -> list[Tensor]:
    """Kept tensors where those of `like` are: a resume gives them on the host."""
    return [tensor.to(other.device) for tensor, other in zip(kept, like.tensors, strict=True)]


def check_warmup(steps: int) -> None:
    """Raise `BadInput` unless `steps` can be the warm-up of a radius."""
    require(steps >= 0, "method.rho_warmup", steps, "a number of steps ≥ 0")


def warmed_up(rho: float, progress: Progress, warmup: int) -> float:
    """The radius ρ, growing linearly over the first `warmup` updates: `ρ · min(1, (step + 1) / warmup)`."""
    return rho * min(1.0, (progress.step + 1) / warmup) if warmup else rho
