"""GSAM (Zhuang et al. 2022, arXiv 2203.08065): SAM that also closes the gap between L(θ + ε) and L(θ).

`g = ∇L(θ)`, `ε = ρ_t unit(g)`, `g_p = ∇L(θ + ε)`; descend `g_p − α · (the part of g that is orthogonal to g_p)`, with
`ρ_t = ρ_min + (ρ − ρ_min) (η_t − η_min) / (η_max − η_min)`, η the learning rate. Cost: 2F + 2G, one gradient more in
memory than SAM. Nothing crosses between members.
"""

from __future__ import annotations

from typing import Literal

import torch

from dist_dash.errors import require, require_non_negative
from dist_dash.member.batch import Batch, Progress
from dist_dash.member.member import Member
from dist_dash.member.vector import orthogonal_part, unit
from dist_dash.methods.method import Measured, Method, Totals, ascent, gradient_at
from dist_dash.ranks.exchange import Exchange


class GSAM(Method):
    """Surrogate-gap guided sharpness-aware minimization.

    Args:
        rho: radius where the learning rate is at its highest.
        rho_min: radius where it is at its lowest; null: `rho` throughout.
        alpha: α ≥ 0; 0 is SAM.
        ascent_sync: `local`: each replica decomposes its own two gradients, as in the authors' code; `mean`: gradients
            are averaged over replicas first.
        perturb: as in SAM.
    """

    def __init__(
        self,
        rho: float = 0.05,
        rho_min: float | None = None,
        alpha: float = 0.1,
        ascent_sync: Literal["local", "mean"] = "local",
        perturb: str = "all",
    ) -> None:
        require_non_negative("method.rho", rho)
        if rho_min is not None:
            require(0 <= rho_min <= rho, "method.rho_min", rho_min, f"in [0, rho], here [0, {rho}], or null")
        require_non_negative("method.alpha", alpha)
        self.rho, self.rho_min, self.alpha, self.ascent_sync = rho, rho_min, alpha, ascent_sync
        self.perturb = perturb

    def radius(self, progress: Progress) -> float:
        """ρ_t."""
        low, high = progress.rate_range
        if self.rho_min is None or high == low:
            return self.rho
        share = min(1.0, max(0.0, (progress.rate - low) / (high - low)))
        return self.rho_min + (self.rho - self.rho_min) * share

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals, rho = Totals(len(batch)), self.radius(batch.progress)
        g = ascent(member, batch, totals, self.ascent_sync)
        g_p = gradient_at(rho * unit(member.restricted(g, self.perturb)), member, batch, totals, self.ascent_sync)
        lengths = {"g_loss_norm": g.norm(), "radius": torch.tensor(rho, dtype=torch.float64)}
        if self.alpha:
            # Where g_p = 0 all of g is orthogonal to it, and the rule would climb; there is nothing to descend.
            g_p = g_p - (self.alpha * torch.sign(g_p.norm())) * orthogonal_part(g, g_p)
        del g
        member.descend(g_p)
        member.step()
        return totals.measured(**lengths, loss_rise=totals["perturbed_loss"] - totals["loss"])
