"""What the other members predict on the same samples: on its way, and arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dist_dash.ranks.clock import Clock
from dist_dash.ranks.transport import Transport

View = Literal["logits", "probs"]
VIEWS: dict[View, Callable[[Tensor], Tensor]] = {"logits": lambda z: z, "probs": lambda z: torch.softmax(z, -1)}


class Peers:
    """The other members' predictions on the same samples, as constants.

    Args:
        logits: this member's own logits `[n, C]`: where no peer is finite the member is its own peer, so that the
            diversity and its gradient are exactly 0.
        means: per view, the mean over the finite others `[n, C]`.
        count: how many finite others there are, a 0-dimensional tensor.
        finite: which members' predictions are finite, this one's included, `[members]` bool.
    """

    def __init__(self, logits: Tensor, means: Mapping[View, Tensor], count: Tensor, finite: Tensor) -> None:
        self._logits, self._means, self.count, self.finite = logits, means, count, finite

    @property
    def mean_logits(self) -> Tensor:
        """The average of the others' logits `[n, C]`."""
        return torch.where(self.count > 0, self._means["logits"], self._logits)

    @property
    def mean_probs(self) -> Tensor:
        """The average of the others' softmax `[n, C]`."""
        return torch.where(self.count > 0, self._means["probs"], torch.softmax(self._logits, -1))


SMALL = 2**16  # bytes of a message whose transfer takes no longer than an empty one's


class _Received:
    """A message on its way, and the time that is spent on it: waiting until everybody has sent theirs, and transfer.

    A large message comes behind an empty one, which arrives once everybody is there: what is left is transfer. A small
    one is all waiting.
    """

    def __init__(self, transport: Transport, values: Tensor, mode: Literal["gather", "reduce"], clock: Clock) -> None:
        large = values.numel() * values.element_size() > SMALL
        self._arrival = transport.all_reduce(torch.zeros(1, device=values.device)) if large else None
        self._payload = transport.all_gather(values) if mode == "gather" else transport.all_reduce(values)
        self._clock = clock

    def wait(self) -> Tensor:
        if self._arrival is None:
            self._payload.landed()
            with self._clock.waiting("wait"):
                return self._payload.wait()
        self._arrival.landed()
        self._payload.landed()
        with self._clock.waiting("wait"):
            self._arrival.wait()
        with self._clock.waiting("transfer"):
            return self._payload.wait()


@dataclass(frozen=True)
class Stacked:
    """One tensor of every member.

    Args:
        values: `[members, …]`, in member order, as constants; what a non-finite member sent stays as it is.
        finite: which members' values are finite, `[members]` bool. A mean, a median or a sum over members must leave
            the others out.
    """

    values: Tensor
    finite: Tensor


class PendingStack:
    """Tensors of all members on their way; `wait()` for them after the work that hides the exchange.

    Args:
        transport: the group of members.
        values: this member's own; equal shapes on all.
        clock: where waiting and transfer are counted.
    """

    def __init__(self, transport: Transport, values: Tensor, clock: Clock) -> None:
        self._received, self._shape = _Received(transport, values.detach().reshape(-1), "gather", clock), values.shape
        self._stacked: Stacked | None = None

    def wait(self) -> Stacked:
        """Every member's values, and which of them are finite."""
        if self._stacked is None:
            flat = self._received.wait()
            self._stacked = Stacked(flat.reshape(len(flat), *self._shape), torch.isfinite(flat).all(1))
        return self._stacked


class PendingPeers:
    """Predictions on their way; `wait()` for them after the backward that hides the exchange.

    Args:
        transport: the group of members that see the same samples.
        logits: this member's own logits `[n, C]`, detached.
        own: this member's place in the group.
        views: the averages that will be asked for.
        mode: `gather` every member's logits, or `reduce` them to sums: memory independent of the members.
        clock: where waiting and transfer are counted.
    """

    def __init__(
        self,
        transport: Transport,
        logits: Tensor,
        own: int,
        views: Sequence[View],
        mode: Literal["gather", "reduce"],
        clock: Clock,
    ) -> None:
        self._logits, self._own, self._views, self._mode = logits, own, views, mode
        self._sent = self._contribution(transport.size) if mode == "reduce" else logits
        self._received = _Received(transport, self._sent, mode, clock)
        self._peers: Peers | None = None

    def wait(self) -> Peers:
        """The others' predictions, averaged per view; a non-finite member is left out of the averages."""
        if self._peers is None:
            self._peers = (self._from_stack if self._mode == "gather" else self._from_sum)(self._received.wait())
        return self._peers

    def _contribution(self, members: int) -> Tensor:
        """The views, 0 where they are not finite, and for each member a flag: whether it is this one, and finite."""
        finite = torch.isfinite(self._logits).all()
        views = torch.cat([VIEWS[v](self._logits).reshape(-1) for v in self._views])
        flags = views.new_zeros(members)
        flags[self._own] = finite
        return torch.cat([torch.where(finite, views, 0.0), flags])

    def _from_sum(self, total: Tensor) -> Peers:
        size = len(self._views) * self._logits.numel()
        others, finite = (total - self._sent)[:size], total[size:] > 0
        count = (total - self._sent)[size:].round().sum()
        means = (others / count.clamp_min(1)).reshape(len(self._views), *self._logits.shape)
        return Peers(self._logits, dict(zip(self._views, means, strict=True)), count, finite)

    def _from_stack(self, stack: Tensor) -> Peers:
        finite = torch.isfinite(stack).flatten(1).all(1)
        others = finite & (torch.arange(len(stack), device=stack.device) != self._own)
        count = others.to(stack.dtype).sum()
        share = (others.to(stack.dtype) / count.clamp_min(1)).reshape(-1, *[1] * (stack.dim() - 1))
        present = torch.where(share > 0, stack, 0.0)  # 0 · NaN would be NaN
        means = {}
        for view in self._views:
            own = VIEWS[view](self._logits).nan_to_num(posinf=0.0, neginf=0.0)  # a non-finite member still has peers
            # As differences to the member's own: equal members must give exactly its own prediction back.
            means[view] = own + ((VIEWS[view](present) - own) * share).sum(0)
        return Peers(self._logits, means, count, finite)
