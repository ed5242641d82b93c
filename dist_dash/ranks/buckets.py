"""The mean of many tensors over a member's replicas, in buckets that are sent as soon as they are full.

Which tensors share a bucket follows from their order, shapes and types alone, and a bucket starts behind the one before
it: number, order and shape of the collectives are equal on all replicas, whatever parameters their samples use. They
are also equal after a resume, on which the last bits of a sum of three or more replicas depend.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dist_dash.ranks.transport import Transfer

AT_LEAST = 8  # buckets of a long vector: the last one is full when nothing is left to hide it behind
WORTH_IT = 1e6  # bytes below which a further bucket costs more than it hides


def buckets_of(tensors: Sequence[Tensor], megabytes: float) -> list[list[int]]:
    """Positions of the tensors of each bucket, in order.

    Args:
        tensors: a tensor that is larger than a bucket has one of its own.
        megabytes: size of a bucket; of a short vector, less.
    """
    total = sum(t.numel() * t.element_size() for t in tensors)
    room = min(1e6 * megabytes, max(total / AT_LEAST, WORTH_IT))
    buckets: list[list[int]] = []
    filled = 0.0
    for position, tensor in enumerate(tensors):
        size = tensor.numel() * tensor.element_size()
        same = buckets and tensor.dtype == tensors[buckets[-1][0]].dtype
        if same and filled + size <= room:
            buckets[-1].append(position)
            filled += size
        else:
            buckets.append([position])
            filled = size
    return buckets


class Mean:
    """Tensors on their way to their mean over the replicas.

    Args:
        buckets: positions of the tensors of each bucket, in the order in which they are expected.
        like: tensors of the same shapes, strides and types.
        take: gives up the tensor at a position; None stands for zeros.
        start: starts averaging a flat tensor in place.
    """

    def __init__(
        self,
        buckets: Sequence[Sequence[int]],
        like: Sequence[Tensor],
        take: Callable[[int], Tensor | None],
        start: Callable[[Tensor], Transfer],
    ) -> None:
        self._left, self._like, self._take, self._start_mean = deque(buckets), like, take, start
        self._there: set[int] = set()
        self._started: list[Transfer] = []
        self._views: dict[int, Tensor] = {}

    def arrived(self, position: int) -> bool:
        """A tensor is ready to be taken; False where its bucket has been sent already."""
        if position in self._views:
            return False
        self._there.add(position)
        while self._left and self._there.issuperset(self._left[0]):
            self._send()
        return True

    def send_rest(self) -> bool:
        """No more tensors come: those that have not are 0. Whether all had been sent already."""
        complete = not self._left
        while self._left:
            self._send()
        return complete

    def wait(self) -> dict[int, Tensor]:
        """The means that have been sent for, by position; they share the memory of their bucket."""
        for transfer in self._started:
            transfer.landed()
            transfer.wait()
        self._started.clear()
        return self._views

    def _send(self) -> None:
        positions = self._left.popleft()
        sizes = [self._like[i].numel() for i in positions]
        first = self._like[positions[0]]
        flat = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
        views = [_shaped(part, self._like[i]) for part, i in zip(flat.split(sizes), positions, strict=True)]
        pairs = [(view, self._take(i)) for view, i in zip(views, positions, strict=True)]
        for view in [view for view, tensor in pairs if tensor is None]:
            view.zero_()
        there = [(view, tensor) for view, tensor in pairs if tensor is not None]
        if there:
            torch._foreach_copy_([view for view, _ in there], [tensor for _, tensor in there])
        self._views.update(zip(positions, views, strict=True))
        self._started.append(self._start_mean(flat))


def _shaped(part: Tensor, like: Tensor) -> Tensor:
    """A flat tensor as one of another's shape, in its order of memory (channels last) where that has no holes."""
    span = 1 + sum((n - 1) * stride for n, stride in zip(like.shape, like.stride(), strict=True))
    if like.numel() and span == like.numel():
        return part.as_strided(like.shape, like.stride(), part.storage_offset())
    return part.view(like.shape)
