"""GAM (Zhang et al. 2023, arXiv 2303.03108): descend the loss and its largest gradient nearby, first-order flatness.

`f = ∇²L(θ) unit(∇L(θ))`; `θ₂ = θ + ρ unit(f)`; descend `∇L(θ) + α ρ ∇²L(θ₂) unit(∇L(θ₂))`. By `form`:

difference   both Hessian products by differences of gradients over r, as they are cheap and work with every kernel:
             `g₀ = ∇L(θ)`, `g₁ = ∇L(θ + r unit(g₀))`, `θ₂ = θ + ρ unit(g₁ − g₀)`, `g₂ = ∇L(θ₂)`,
             `g₃ = ∇L(θ₂ + r unit(g₂))`; descend `g₀ + α ρ (g₃ − g₂) / r`.   Cost: 4F + 4G
exact        both by a backward through the backward, not under every kernel.     Cost: 2F + 6G
authors      what their code does: `d = g₁ + g₃`, `m = g₀ + g₂`; descend `d − 0.03 · (the part of m orthogonal to d)`.
             A sum of two gradients: its steps are more than twice as long.   Cost: 4F + 4G

Nothing crosses between members.
"""

from __future__ import annotations

from typing import Literal

import torch

from dist_dash.errors import BadInput, require, require_non_negative, require_positive
from dist_dash.member.batch import Batch
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, orthogonal_part, unit
from dist_dash.methods.method import Measured, Method, Totals, ascent, gradient_at
from dist_dash.ranks.exchange import Exchange

ROUNDED = 0.1
"""The smallest r over which a difference of gradients of bf16 or fp16 activations is not mostly rounding."""


class GAM(Method):
    """Gradient-norm aware minimization.

    Args:
        rho: ρ, how far the point lies at which the gradient is made small.
        r: the distance over which gradients are differenced (ρ' in the authors' code).
        alpha: α, weight of the flatness; not used where `form` is authors.
        form: `difference`, `exact` or `authors`, see above.
        ascent_sync: `local`: all gradients are those of a replica's own samples; `mean`: averaged over replicas
            before anything is done with them.
        perturb: as in SAM.
    """

    def __init__(
        self,
        rho: float = 0.2,
        r: float = 0.02,
        alpha: float = 0.3,
        form: Literal["difference", "exact", "authors"] = "difference",
        ascent_sync: Literal["local", "mean"] = "local",
        perturb: str = "all",
    ) -> None:
        require_non_negative("method.rho", rho)
        require_positive("method.r", r)
        require_non_negative("method.alpha", alpha)
        require(form in ("difference", "exact", "authors"), "method.form", form, "difference, exact or authors")
        self.rho, self.r, self.alpha, self.form, self.ascent_sync = rho, r, alpha, form, ascent_sync
        self.perturb = perturb

    def copies(self, members: int) -> int:
        return 6

    def check(self, facts: RunFacts) -> None:
        if facts.precision in ("bf16", "fp16") and self.form != "exact" and self.r < ROUNDED:
            what = f"engine.precision: {facts.precision} rounds away a difference of gradients over method.r: {self.r}"
            raise BadInput(f"{what}; it must be fp32, or r at least {ROUNDED}")
        if facts.precision == "fp16" and self.form == "exact":
            raise BadInput("method.form: exact knows no loss scale, which engine.precision: fp16 needs; use difference")
        if facts.compiled and self.form == "exact":
            raise BadInput("method.form: exact differentiates a gradient, which compile: true forbids; use difference")

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals = Totals(len(batch))
        descent = (self._exact if self.form == "exact" else self._by_differences)(member, batch, totals)
        member.descend(descent)
        member.step()
        return totals.measured(g_descent_norm=descent.norm())

    def _by_differences(self, member: Member, batch: Batch, totals: Totals) -> ParameterVector:
        def gradient(epsilon: ParameterVector) -> ParameterVector:
            return gradient_at(epsilon, member, batch, Totals(len(batch)), self.ascent_sync)

        def direction(vector: ParameterVector) -> ParameterVector:
            return unit(member.restricted(vector, self.perturb))

        g0 = ascent(member, batch, totals, self.ascent_sync)
        g1 = gradient(self.r * direction(g0))
        worst = self.rho * direction(g1 - g0)
        g2 = gradient(worst)
        g3 = gradient(worst + self.r * direction(g2))
        if self.form == "difference":
            return g0 + (self.alpha * self.rho / self.r) * (g3 - g2)
        d, m = g1 + g3, g0 + g2
        return d - (0.03 * torch.sign(d.norm())) * orthogonal_part(m, d)  # d = 0: there is nothing to descend

    def _exact(self, member: Member, batch: Batch, totals: Totals) -> ParameterVector:
        g0, f = self._gradient_and_curvature(member, batch, totals)
        with member.perturbed(self.rho * unit(member.restricted(f, self.perturb))):
            _, worst = self._gradient_and_curvature(member, batch, Totals(len(batch)))
        return g0 + (self.alpha * self.rho) * worst

    def _gradient_and_curvature(
        self, member: Member, batch: Batch, totals: Totals
    ) -> tuple[ParameterVector, ParameterVector]:
        """∇L and ∇²L unit(∇L) at the present weights. The graphs of all micro-batches live until both are known."""
        g, f, with_graph = ParameterVector([]), ParameterVector([]), []
        for micro in batch:
            logits = member.forward(micro.x)
            loss = micro.loss(logits)
            with_graph.append(member.gradient(loss, create_graph=True))
            g += ParameterVector([t.detach().clone() for t in with_graph[-1].tensors])
            totals.add(loss=loss, accuracy=micro.correct(logits))
        if self.ascent_sync == "mean":
            g = member.mean_over_replicas(g)
        u = unit(member.restricted(g, self.perturb))
        for gradient in with_graph:
            f += member.gradient(gradient.dot(u), share=1)
        return g, member.mean_over_replicas(f) if self.ascent_sync == "mean" else f
