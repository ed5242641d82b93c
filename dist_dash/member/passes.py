"""What an update has cost, counted while it is made, and which of its forwards are the first of a micro-batch."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor


class Passes(NamedTuple):
    """What an update cost, counted while it was made: a forward or backward of all its samples counts 1."""

    forwards: float
    backwards: float


class PassCount:
    """Counts the passes of the present update.

    A micro-batch is a tensor as long as the update's first, of which there are `accumulation`: neither a part of one
    nor the same one again.

    Args:
        accumulation: micro-batches per update.
    """

    def __init__(self, accumulation: int) -> None:
        self._accumulation = accumulation
        self._begin()

    def _begin(self) -> None:
        self._met: list[Tensor] = []  # the micro-batches of this update
        self._moved: list[Tensor] = []  # those whose forward has moved the statistics
        self._forwarded = self._backwarded = 0

    def meet(self, x: Tensor, perturbed: bool) -> bool:
        """A forward of an update meets samples; whether it is the first one of theirs that is not `perturbed`."""
        self._note(x, self._met)
        return not perturbed and self._note(x, self._moved)

    def forward(self, x: Tensor, logits: Tensor) -> None:
        """Count a forward, and every backward that will come by its logits."""
        self._forwarded += len(x)
        if logits.requires_grad:
            logits.register_hook(partial(self._count_backward, len(x)))

    def end(self) -> Passes:
        """The update is over: what it cost."""
        samples = sum(map(len, self._met)) or 1
        passes = Passes(self._forwarded / samples, self._backwarded / samples)
        self._begin()
        return passes

    def _note(self, x: Tensor, seen: list[Tensor]) -> bool:
        """Whether `x` is another micro-batch of the update; a part of one, which is smaller, is none."""
        size = len(self._met[0]) if self._met else len(x)
        new = len(seen) < self._accumulation and len(x) == size and not any(x is other for other in seen)
        if new:
            seen.append(x)
        return new

    def _count_backward(self, samples: int, _: Tensor) -> None:
        self._backwarded += samples
