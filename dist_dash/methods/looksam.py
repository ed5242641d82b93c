"""LookSAM (Liu et al. 2022, arXiv 2203.02714): SAM every k-th update, its direction reused between.

    t mod k = 0:  g = ∇L(θ), g_s = ∇L(θ + ρ unit(g)), g_v = g_s − ⟨g_s, unit(g)⟩ unit(g); descend g_s
    else:         descend g + α ‖g‖ unit(g_v)

Norms are those of all parameters as one vector, as in the paper. Cost: (1 + 1/k)(F + G) on average, and one vector
kept. Gradients are averaged over a member's replicas before anything is done with them, so that all keep the same.
Nothing crosses between members.
"""

from __future__ import annotations

from typing import Any

from dist_dash.errors import require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.member.vector import unit
from dist_dash.methods.method import Measured, Method, Totals, ascent, gradient_at
from dist_dash.methods.reuse import Reuse
from dist_dash.ranks.exchange import Exchange


class LookSAM(Method):
    """SAM every k updates.

    Args:
        rho: radius of the perturbation.
        k: updates from one SAM gradient to the next.
        alpha: α, weight of the kept direction between.
        perturb: as in SAM.
    """

    def __init__(self, rho: float = 0.05, k: int = 5, alpha: float = 0.7, perturb: str = "all") -> None:
        require_non_negative("method.rho", rho)
        self.rho, self.perturb = rho, perturb
        self._reuse = Reuse(k, alpha, "method.k")

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        if not self._reuse.due(batch.progress):
            return self._reuse.update_between(member, batch)
        totals = Totals(len(batch))
        g = ascent(member, batch, totals, "mean")
        g_s = gradient_at(self.rho * unit(member.restricted(g, self.perturb)), member, batch, totals, "mean")
        self._reuse.finish(member, g, g_s)
        return totals.measured(g_loss_norm=g.norm(), loss_rise=totals["perturbed_loss"] - totals["loss"])

    def restarted(self) -> None:
        self._reuse.restarted()

    def state_dict(self) -> dict[str, Any]:
        return self._reuse.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reuse.load_state_dict(state)
