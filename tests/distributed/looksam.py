"""A method that the package does not know: LookSAM (Liu et al. 2022), one class in one file.

Every k steps it is SAM and keeps `g_v`, the part of the SAM gradient that is orthogonal to `g = ∇L(θ)`; between, it
descends `g + α ‖g‖/‖g_v‖ g_v`. Cost: towards F + G for large k. Nothing crosses between members.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dist_dash.errors import require, require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods import Measured, Method, Totals
from dist_dash.ranks.exchange import Exchange


class Looks(Method):
    """SAM every k steps, reusing its sharpness direction in between.

    Args:
        k: steps from one SAM gradient to the next.
        rho: radius of the perturbation.
        alpha: share of the kept direction between.
    """

    def __init__(self, k: int = 5, rho: float = 0.05, alpha: float = 0.7) -> None:
        require(k >= 1, "method.k", k, "a whole number ≥ 1")
        require_non_negative("method.rho", rho)
        require_non_negative("method.alpha", alpha)
        self.k, self.rho, self.alpha = k, rho, alpha
        self._kept: list[Tensor] = []

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        """One update."""
        totals = Totals(len(batch))
        g = ParameterVector([])
        for micro in batch:
            logits = member.forward(micro.x)
            loss = micro.loss(logits)
            g += member.gradient(loss)
            totals.add(loss=loss, accuracy=micro.correct(logits))
        g = member.mean_over_replicas(g)
        if batch.progress.step % self.k == 0:
            g_sam = ParameterVector([])
            with member.perturbed(self.rho * unit(g)):
                for micro in batch:
                    loss = micro.loss(member.forward(micro.x))
                    g_sam += member.gradient(loss)
            g_sam = member.mean_over_replicas(g_sam)
            along = unit(g)
            kept = (g_sam - g_sam.dot(along) * along).materialised()
            member.descend(g_sam)
            if member.step():  # a skipped step leaves the direction as it was
                self._kept = kept
        else:
            g_v = ParameterVector(
                [tensor.to(like.device) for tensor, like in zip(self._kept, g.tensors, strict=bool(self._kept))]
            )
            member.descend(g + (self.alpha * g.norm()) * unit(g_v))
            member.step()
        return totals.measured(g_loss_norm=g.norm())

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept = state["kept"]


class Forgetful(Looks):
    """LookSAM that does not keep its direction over a stop."""

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [torch.ones_like(tensor) for tensor in self._kept]}
