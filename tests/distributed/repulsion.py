"""A method that the package does not know and that compares all pairs: a repulsive ensemble (D'Angelo & Fortuin 2021).

Descends `∇_i [ L_i + λ log Σ_j k(f_i, f_j) ]` with an RBF kernel on the predictions of the batch and the median of
all distances as its width: members push each other away in function space. Cost: F + G and one all-gather.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dist_dash.errors import require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.losses import cross_entropy
from dist_dash.member.member import Member
from dist_dash.methods import Method
from dist_dash.methods.method import Measured, Totals
from dist_dash.ranks.exchange import Exchange


class Repels(Method):
    """Members that repel each other's predictions.

    Args:
        weight: λ.
    """

    exchanges = True

    def __init__(self, weight: float = 1.0) -> None:
        require_non_negative("method.weight", weight)
        self.weight = weight

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        """One forward, one exchange, one backward per micro-batch."""
        totals = Totals(len(batch))
        for micro in batch:
            logits = member.forward(micro.x)
            loss = cross_entropy(logits, micro.target)
            own = torch.softmax(logits, -1)
            stacked = exchange.stack(own).wait()
            # A non-finite member has no part in the median or the sum; the mean over what is left needs no weight.
            present = stacked.values[stacked.finite]
            repulsion = torch.log(kernel(own, present, width(present)).sum())
            member.backward(loss + self.weight * repulsion)
            totals.add(loss=loss, accuracy=micro.correct(logits), repulsion=repulsion)
        member.step()
        return totals.measured()


def distances(own: Tensor, everyone: Tensor) -> Tensor:
    """Squared distances of `[n, C]` to each of `[members, n, C]`."""
    return (everyone - own).square().sum((-1, -2))


def width(everyone: Tensor) -> Tensor:
    """The median of all pairwise squared distances, but not 0."""
    return torch.stack([distances(one, everyone) for one in everyone]).median().clamp_min(1e-6)


def kernel(own: Tensor, everyone: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-distances(own, everyone) / width)
