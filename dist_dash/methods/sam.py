"""Sharpness-aware minimization (Foret et al. 2021), each member for itself.

`ε = ρ sign(g) |g|^{q−1} / (‖g‖_q^q)^{1/p}` with `1/p + 1/q = 1` and `g = ∇L(θ)`; descend `∇L(θ + ε)`.
Cost: 2F + 2G. Nothing crosses between members.
"""

from __future__ import annotations

from typing import Literal

from dist_dash.errors import require, require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.losses import cross_entropy
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, sam_perturbation
from dist_dash.methods.method import Measured, Method, Passes, Totals
from dist_dash.methods.radius import check_warmup, warmed_up
from dist_dash.ranks.exchange import Exchange


class SAM(Method):
    """Sharpness-aware minimization.

    Args:
        rho: radius of the perturbation, in the p-norm over all of a member's trainable parameters.
        p: the norm, above 1; `2` is the usual one, `.inf` perturbs every weight by ρ.
        ascent_sync: `local`: each replica ascends on its own samples (m-sharpness, the usual choice); `mean`: on the
            gradient of all replicas, like one large batch.
        rho_warmup: steps over which the radius grows from 0.
    """

    passes = Passes(2, 2)

    def __init__(
        self, rho: float = 0.05, p: float = 2.0, ascent_sync: Literal["local", "mean"] = "local", rho_warmup: int = 0
    ) -> None:
        require_non_negative("method.rho", rho)
        require(p > 1, "method.p", p, "above 1 (.inf is allowed)")
        check_warmup(rho_warmup)
        self.rho, self.p, self.ascent_sync, self.rho_warmup = rho, p, ascent_sync, rho_warmup

    def copies(self, alone: bool) -> float:
        """The scaled perturbation and the weights as they were, beside the gradient in the descent gradient's place."""
        return 2.0

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        """Ascend on every micro-batch, then descend on every micro-batch from the perturbed weights."""
        totals = Totals(len(batch))
        g = ParameterVector([])
        for micro in batch:
            logits = member.forward(micro.x)
            loss = cross_entropy(logits, micro.target)
            g += member.gradient(loss)
            totals.add(loss=loss, accuracy=micro.correct(logits))
        if self.ascent_sync == "mean":
            g = member.mean_over_replicas(g)
        g_norm = g.norm()
        epsilon = sam_perturbation(g, warmed_up(self.rho, batch.step, self.rho_warmup), self.p)
        del g
        with member.perturbed(epsilon):
            del epsilon
            for micro in batch:
                loss = cross_entropy(member.forward(micro.x), micro.target)
                member.backward(loss)
                totals.add(perturbed_loss=loss)
        member.step()
        return totals.measured(g_loss_norm=g_norm, loss_rise=totals["perturbed_loss"] - totals["loss"])
