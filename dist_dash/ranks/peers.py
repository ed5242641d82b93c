"""What the other members predict on the same samples: on its way, and arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """

    def __init__(self, logits: Tensor, means: Mapping[View, Tensor], count: Tensor) -> None:
        self._logits, self._means, self.count = logits, means, count

    @property
    def mean_logits(self) -> Tensor:
        """The average of the others' logits `[n, C]`."""
        return torch.where(self.count > 0, self._means["logits"], self._logits)

    @property
    def mean_probs(self) -> Tensor:
        """The average of the others' softmax `[n, C]`."""
        return torch.where(self.count > 0, self._means["probs"], torch.softmax(self._logits, -1))


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
        self._logits, self._own, self._views, self._mode, self._clock = logits, own, views, mode, clock
        # An empty message first, the payload second: the time until everybody has arrived is skew, the rest transfer.
        self._arrival = transport.all_reduce(torch.zeros(1, device=logits.device))
        self._payload = transport.all_gather(logits) if mode == "gather" else transport.all_reduce(self._contribution())
        self._peers: Peers | None = None

    def wait(self) -> Peers:
        """The others' predictions, averaged per view; a member with a non-finite logit is left out of the averages."""
        if self._peers is None:
            received = self._received()
            self._peers = self._from_stack(received) if self._mode == "gather" else self._from_sum(received)
        return self._peers

    def _received(self) -> Tensor:
        self._arrival.landed()
        self._payload.landed()
        with self._clock.waiting("wait"):
            self._arrival.wait()
        with self._clock.waiting("transfer"):
            return self._payload.wait()

    def _contribution(self) -> Tensor:
        finite = torch.isfinite(self._logits).all()
        views = torch.cat([VIEWS[v](self._logits).reshape(-1) for v in self._views])
        return torch.cat([torch.where(finite, views, 0.0), finite.to(views.dtype).reshape(1)])

    def _from_sum(self, total: Tensor) -> Peers:
        others = total - self._contribution()
        count = others[-1].round()
        means = (others[:-1] / count.clamp_min(1)).reshape(len(self._views), *self._logits.shape)
        return Peers(self._logits, dict(zip(self._views, means, strict=True)), count)

    def _from_stack(self, stack: Tensor) -> Peers:
        finite = torch.isfinite(stack).flatten(1).all(1)
        finite[self._own] = False
        count = finite.sum()
        share = (finite.to(stack.dtype) / count.clamp_min(1)).reshape(-1, *[1] * (stack.dim() - 1))
        present = torch.where(share > 0, stack, 0.0)  # 0 · NaN would be NaN
        means = {}
        for view in self._views:
            own = VIEWS[view](self._logits).nan_to_num(posinf=0.0, neginf=0.0)  # a sick member still sees its peers
            # As differences to the member's own: equal members must give exactly its own prediction back.
            means[view] = own + ((VIEWS[view](present) - own) * share).sum(0)
        return Peers(self._logits, means, count)
