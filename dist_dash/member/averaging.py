"""Gradients averaged over a member's replicas while the backward that makes them runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from dist_dash.ranks.buckets import Mean, buckets_of
from dist_dash.ranks.exchange import Exchange


def in_order_of_backward(parameters: Sequence[Tensor], megabytes: float) -> list[list[int]]:
    """Buckets of parameters, the last ones first: what a network uses last has its gradient first."""
    last = len(parameters) - 1
    backwards = buckets_of([*reversed(parameters)], megabytes)
    return [[last - position for position in bucket] for bucket in backwards]


class DescentAverage:
    """Averages `.grad` over the replicas, from the last backward of an update on.

    A gradient that comes after its bucket was sent (another backward, a parameter that one backward reaches twice) is
    added to the mean, and all of it averaged once more: the mean of `mean + own` is what is wanted.

    Args:
        parameters: of the member; each gets a hook.
        megabytes: size of a bucket.
        exchange: between the replicas.
        travel: a smaller type in which gradients are sent.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        megabytes: float,
        exchange: Exchange,
        travel: torch.dtype | None = None,
    ) -> None:
        self._parameters, self._exchange, self._travel = parameters, exchange, travel
        self._buckets = in_order_of_backward(parameters, megabytes)
        self._mean: Mean | None = None  # None: nothing is under way
        self._in_last = self._waited_in_vain = False
        for position, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, position))

    @contextmanager
    def backward(self, loss: Tensor, last: bool) -> Iterator[None]:
        """The body is the backward of `loss`; `last`: no other follows in this update, what it finishes can be sent."""
        self._take_back()
        self._in_last = last
        if last and self._waited_in_vain:  # for parameters that the loss does not use: they hold up those behind them
            expect_only_used(self._under_way(), loss, self._parameters)
        try:
            yield
            if self._in_last:
                self._waited_in_vain |= not self._under_way().send_rest()
        except BaseException:
            self._mean = None  # what was sent comes to its end by itself
            for parameter in self._parameters:
                parameter.grad = None  # half of one
            raise
        finally:
            self._in_last = False

    def finish(self) -> None:
        """Make every `.grad` the mean over the replicas; 0 where no replica has used a parameter."""
        self._under_way().send_rest()
        self._take_back()

    def _under_way(self) -> Mean:
        if self._mean is None:
            start = partial(self._exchange.start_mean_over_replicas_, travel=self._travel)
            self._mean = Mean(self._buckets, self._parameters, self._give_up, start)
        return self._mean

    def _arrived(self, position: int, _: Tensor) -> None:
        if self._in_last and not self._under_way().arrived(position):
            self._in_last = False
            self._take_back()

    def _give_up(self, position: int) -> Tensor | None:
        parameter = self._parameters[position]
        gradient, parameter.grad = parameter.grad, None
        return gradient

    def _take_back(self) -> None:
        """Wait for what was sent, and make it gradients like any other."""
        if self._mean is not None:
            for position, mean in self._mean.wait().items():
                late = self._parameters[position].grad
                self._parameters[position].grad = mean if late is None else mean.add_(late)
            self._mean = None


def expect_only_used(mean: Mean, loss: Tensor, parameters: Sequence[Tensor]) -> None:
    """Do not wait for gradients of parameters that a loss does not depend on: they are 0."""
    used = leaves(loss)
    for position, parameter in enumerate(parameters):
        if parameter not in used:
            mean.arrived(position)


def leaves(loss: Tensor) -> set[Tensor]:
    """The parameters that a loss depends on."""
    nodes, seen, found = [loss.grad_fn], set[object](), set[Tensor]()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [parent for parent, _ in node.next_functions]
            if hasattr(node, "variable"):
                found.add(node.variable)
    return found


def mean_gradient(
    loss: Tensor,
    parameters: Sequence[Tensor],
    retain_graph: bool,
    onto: dict[int, Tensor],
    megabytes: float,
    exchange: Exchange,
) -> Callable[[], list[Tensor]]:
    """∇loss plus `onto`, averaged over the replicas while the backward runs.

    Args:
        loss: 0-dimensional.
        parameters: with respect to which the gradient is taken.
        retain_graph: whether the graph is needed again.
        onto: what is added, by position; used up.
        megabytes: size of a bucket.
        exchange: between the replicas.

    Returns:
        What waits for the mean, one tensor per parameter. Every bucket has been sent.
    """

    def take(position: int) -> Tensor | None:
        return onto.pop(position, None)

    buckets = in_order_of_backward(parameters, megabytes)
    mean = Mean(buckets, parameters, take, exchange.start_mean_over_replicas_)

    def arrived(position: int, gradient: Tensor) -> Tensor:
        onto[position] = onto[position].add_(gradient) if position in onto else gradient
        mean.arrived(position)
        return gradient.new_zeros(()).expand_as(gradient)  # autograd would keep the gradient itself to the end

    expect_only_used(mean, loss, parameters)
    hooks = [p.register_hook(partial(arrived, position)) for position, p in enumerate(parameters)]
    try:
        torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    mean.send_rest()

    def wait() -> list[Tensor]:
        found = mean.wait()
        return [found[position] for position in range(len(parameters))]

    return wait
