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

    Where a rank trains k members, all but `finite` has k of each, along a first dimension.

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
        return torch.where(self.count[..., None, None] > 0, self._means["logits"], self._logits)

    @property
    def mean_probs(self) -> Tensor:
        """The average of the others' softmax `[n, C]`."""
        return torch.where(self.count[..., None, None] > 0, self._means["probs"], torch.softmax(self._logits, -1))


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
        values: of this rank's member, or of its members, one after the other.
        shape: of what a member sends; equal on all.
        clock: where waiting and transfer are counted.
    """

    def __init__(self, transport: Transport, values: Tensor, shape: torch.Size, clock: Clock) -> None:
        self._received, self._shape = _Received(transport, values.detach().reshape(-1), "gather", clock), shape
        self._stacked: Stacked | None = None

    def wait(self) -> Stacked:
        """Every member's values, and which of them are finite."""
        if self._stacked is None:
            flat = self._received.wait().reshape(-1, self._shape.numel())
            self._stacked = Stacked(flat.reshape(len(flat), *self._shape), torch.isfinite(flat).all(1))
        return self._stacked


class PendingPeers:
    """Predictions on their way; `wait()` for them after the backward that hides the exchange.

    Args:
        transport: the group of members that see the same samples.
        logits: this member's own logits `[n, C]`, detached; of k members `[k, n, C]`.
        own: this member's place in the group; of k members, theirs.
        views: the averages that will be asked for.
        mode: `gather` every member's logits, or `reduce` them to sums: memory independent of the members.
        clock: where waiting and transfer are counted.
    """

    def __init__(
        self,
        transport: Transport,
        logits: Tensor,
        own: int | range,
        views: Sequence[View],
        mode: Literal["gather", "reduce"],
        clock: Clock,
    ) -> None:
        self._logits, self._views, self._mode = logits, views, mode
        places = torch.arange(transport.size * (len(own) if isinstance(own, range) else 1), device=logits.device)
        self._is_own = places == (places[own.start : own.stop, None] if isinstance(own, range) else own)
        self._sent = self._contribution() if mode == "reduce" else logits
        sent = self._sent.sum(0) if mode == "reduce" and isinstance(own, range) else self._sent
        self._received = _Received(transport, sent, mode, clock)
        self._peers: Peers | None = None

    def wait(self) -> Peers:
        """The others' predictions, averaged per view; a non-finite member is left out of the averages."""
        if self._peers is None:
            self._peers = (self._from_stack if self._mode == "gather" else self._from_sum)(self._received.wait())
        return self._peers

    def _contribution(self) -> Tensor:
        """The views, 0 where they are not finite, and for each member a flag: whether it is this one, and finite."""
        finite = torch.isfinite(self._logits).flatten(-2).all(-1, keepdim=True)
        views = torch.cat([VIEWS[v](self._logits).flatten(-2) for v in self._views], -1)
        return torch.cat([torch.where(finite, views, 0.0), (self._is_own & finite).to(views.dtype)], -1)

    def _from_sum(self, total: Tensor) -> Peers:
        size = len(self._views) * self._logits.shape[-2:].numel()
        others, flags = (total - self._sent).split([size, self._is_own.shape[-1]], -1)
        count = flags.round().sum(-1)
        means = (others / count.clamp_min(1)[..., None]).unflatten(-1, (len(self._views), *self._logits.shape[-2:]))
        return Peers(self._logits, dict(zip(self._views, means.unbind(-3), strict=True)), count, total[size:] > 0)

    def _from_stack(self, stack: Tensor) -> Peers:
        stack = stack.reshape(-1, *stack.shape[-2:])
        finite = torch.isfinite(stack).flatten(1).all(1)
        others = finite & ~self._is_own
        count = others.to(stack.dtype).sum(-1)
        share = (others.to(stack.dtype) / count.clamp_min(1)[..., None])[..., None, None]
        present = torch.where(finite[:, None, None], stack, 0.0)  # 0 · NaN would be NaN
        means = {}
        for view in self._views:
            own = VIEWS[view](self._logits).nan_to_num(posinf=0.0, neginf=0.0)  # a non-finite member still has peers
            # As differences to the member's own: equal members must give exactly its own prediction back.
            means[view] = own + ((VIEWS[view](present) - own.unsqueeze(-3)) * share).sum(-3)
        return Peers(self._logits, means, count, finite)
