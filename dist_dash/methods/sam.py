"""Sharpness-aware minimization (Foret et al. 2021), each member for itself.

`ε = ρ sign(g) |g|^{q−1} / (‖g‖_q^q)^{1/p}` with `1/p + 1/q = 1` and `g = ∇L(θ)`; descend `∇L(θ + ε)`.
Cost: 2F + 2G. Nothing crosses between members.
"""

from __future__ import annotations

from typing import Literal

from dist_dash.errors import require, require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.late import Truth
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, sam_perturbation
from dist_dash.methods.method import Measured, Method, Totals, ascent, check_warmup, warmed_up
from dist_dash.ranks.exchange import Exchange


class SAM(Method):
    """Sharpness-aware minimization.

    Args:
        rho: radius of the perturbation, in the p-norm over all of a member's trainable parameters.
        p: the norm, above 1; `2` is the usual one, `.inf` perturbs every weight by ρ.
        ascent_sync: `local`: each replica ascends on its own samples (m-sharpness, the usual choice); `mean`: on the
            gradient of all replicas, like one large batch.
        rho_warmup: steps over which the radius grows from 0.
        perturb: which parameters the ascent moves: `all`, `norms` (SAM-ON), `no_norms`, or a pattern of names.
    """

    stacked = True
    needs_gradient = True
    """Whether `direction` looks at the gradient."""

    def __init__(
        self,
        rho: float = 0.05,
        p: float = 2.0,
        ascent_sync: Literal["local", "mean"] = "local",
        rho_warmup: int = 0,
        perturb: str = "all",
    ) -> None:
        require_non_negative("method.rho", rho)
        require(p > 1, "method.p", p, "above 1 (.inf is allowed)")
        check_warmup(rho_warmup)
        self.rho, self.p, self.ascent_sync, self.rho_warmup, self.perturb = rho, p, ascent_sync, rho_warmup, perturb

    def direction(self, member: Member, gradient: ParameterVector) -> ParameterVector:
        """The perturbation of radius 1 that the ascent gradient `g` gives; what kin of SAM do in another way."""
        return sam_perturbation(gradient, 1.0, self.p)

    def keep(self, moved: Truth) -> None:
        """Keep what `direction` has computed for the next update, where the weights moved; SAM itself keeps nothing.

        Args:
            moved: what `Member.step` returned; to look at it may mean to wait for the device.
        """

    def copies(self, members: int) -> int:
        return 2  # the gradient, and the weights as they were

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals = Totals(len(batch))
        g = ascent(member, batch, totals, self.ascent_sync, self.perturb)
        g_norm = g.norm()
        epsilon = warmed_up(self.rho, batch.progress, self.rho_warmup) * self.direction(member, g)
        del g
        with member.perturbed(epsilon):
            del epsilon
            for micro in batch:
                loss = micro.loss(member.forward(micro.x))
                member.backward(loss, last=micro is batch.last)
                totals.add(perturbed_loss=loss)
        self.keep(member.step())
        return totals.measured(g_loss_norm=g_norm, loss_rise=totals["perturbed_loss"] - totals["loss"])
