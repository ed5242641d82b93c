"""The deep ensemble: members that differ by their seed and nothing else (Lakshminarayanan et al. 2017).

`g = ∇L(θ)`. Cost: F + G. Nothing crosses between members.
"""

from __future__ import annotations

from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.methods.method import Measured, Method, Totals
from dist_dash.ranks.exchange import Exchange


class SGD(Method):
    """Plain descent by the configured optimizer: each member is trained as if it were alone."""

    stacked = True

    def copies(self, members: int) -> int:
        return 0

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals = Totals(len(batch))
        for micro in batch:
            logits = member.forward(micro.x)
            loss = micro.loss(logits)
            member.backward(loss, last=micro is batch.last)
            totals.add(loss=loss, accuracy=micro.correct(logits))
        member.step()
        return totals.measured()
