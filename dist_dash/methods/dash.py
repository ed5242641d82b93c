"""DASH: diversity-aware ascent, sharpness-aware descent (Bui et al., arXiv 2403.13204).

    L_div,i = mean_B KL( σ(ẑ_i/τ) ‖ σ(ẑ_-i/τ) )       ẑ without the true class; ẑ_-i the other members, constants
    ε_i     = ρ₁ · unit(∇L_i) + ρ₂ · unit(∇L_div,i)    both gradients at θ_i
    g_i     = ∇L_i at θ_i + ε_i ;   θ_i ← optimizer(θ_i, g_i)

Cost: 2F + 3G; one all-gather of `[n, C]` logits per ascent, hidden behind the backward of L_i. Options that make
another algorithm of it are in `dash_siblings.py`.
"""

from __future__ import annotations

from typing import Any, Literal

from dist_dash.errors import BadInput, require, require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, cosine, unit
from dist_dash.methods.dash_siblings import Sibling, ascending_by
from dist_dash.methods.diversity import Diversity
from dist_dash.methods.method import Measured, Method, Totals, check_warmup, warmed_up
from dist_dash.methods.reuse import Reuse
from dist_dash.methods.sam import SAM
from dist_dash.ranks.exchange import Exchange


class DASH(Method):
    """Diversity-aware sharpness minimization: flat members that disagree.

    Args:
        rho_loss: ρ₁, the radius along ∇L (of the whole perturbation where `ascent` is joint).
        rho_div: ρ₂, the radius along ∇L_div.
        temperature: τ of the diversity KL.
        peers: how the others are combined: `mean_logits`, or `mean_probs` (the log of their mean softmax).
        ascent: `separate` unit gradients, or `joint`: ε = ρ₁ · unit(∇(L + λ L_div)) for one backward less.
        weight: λ, of L_div where `ascent` is joint or `diversity_in` is descent.
        classes: `non_target` leaves the true class out of the KL; `all` keeps it.
        diversity_in: `ascent`; `descent`: g = ∇(L − λ L_div) at the SAM point; `none`: the SAM ensemble.
        direction: `diversity`; `random` replaces unit(∇L_div) by a random unit vector: the control for a larger radius.
        gamma: γ, share of the ensemble's own sharpness in the descent gradient.
        ascent_sync: `local`: each replica ascends on its own samples (m-sharpness); `mean`: like one large batch.
        rho_warmup: steps over which the radii grow from 0.
        ascent_by: how the loss part ascends: `SAM` as above, or in the way of `ASAM`, `FSAM` or `MSAM` (see there; with
            their default settings).
        every: k; above 1, a DASH ascent at every k-th update only, and its direction reused between (`reuse.py`).
        alpha: weight of the reused direction where `every` is above 1.
        perturb: which parameters ascents move: `all`, `norms`, `no_norms`, or a pattern of names.
    """

    exchanges = stacked = True

    def __init__(
        self,
        rho_loss: float = 0.05,
        rho_div: float = 0.05,
        temperature: float = 1.0,
        peers: Literal["mean_logits", "mean_probs"] = "mean_logits",
        ascent: Literal["separate", "joint"] = "separate",
        weight: float = 1.0,
        classes: Literal["non_target", "all"] = "non_target",
        diversity_in: Literal["ascent", "descent", "none"] = "ascent",
        direction: Literal["diversity", "random"] = "diversity",
        gamma: float = 0.0,
        ascent_sync: Literal["local", "mean"] = "local",
        rho_warmup: int = 0,
        ascent_by: Literal["SAM", "ASAM", "FSAM", "MSAM"] = "SAM",
        every: int = 1,
        alpha: float = 0.7,
        perturb: str = "all",
    ) -> None:
        for field, value in {"rho_loss": rho_loss, "rho_div": rho_div, "weight": weight, "alpha": alpha}.items():
            require_non_negative(f"method.{field}", value)
        require(0 <= gamma <= 1, "method.gamma", gamma, "a number in [0, 1]")
        check_warmup(rho_warmup)
        if direction == "random" and (ascent == "joint" or diversity_in != "ascent"):
            raise BadInput(
                "method.direction: random is not allowed here; it needs ascent: separate and diversity_in: ascent"
            )
        if ascent == "joint" and diversity_in != "ascent":
            raise BadInput(f"method.ascent: joint has no meaning with diversity_in: {diversity_in}; use separate")
        self.rho_loss, self.rho_div, self.ascent_sync, self.rho_warmup = rho_loss, rho_div, ascent_sync, rho_warmup
        self.own_chance = direction == "random"
        self.diversity, self.perturb = Diversity(temperature, peers, classes), perturb
        self._alone = ascending_by(ascent_by, rho_loss, ascent_sync, rho_warmup, perturb)
        self._sibling: Sibling | None = None
        plain = self.stacked = ascent_by == "SAM" and every == 1
        if not plain or (ascent, diversity_in, direction, gamma) != ("separate", "ascent", "diversity", 0):
            kind = ascent if ascent == "joint" else direction if diversity_in == "ascent" else diversity_in
            reuse = Reuse(every, alpha, "method.every") if every != 1 else None
            self._sibling = Sibling(kind, self.diversity, weight, gamma, self._alone, reuse)

    def copies(self, members: int) -> int:
        if members == 1:
            return self._alone.copies(members)
        return 4 if self._sibling is None else self._sibling.copies

    def check(self, facts: RunFacts) -> None:
        self.diversity.check(facts)
        self._alone.check(facts)

    def check_network(self, member: Member) -> None:
        self._alone.check_network(member)

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        """One update; a member without peers does exactly SAM's, or that of `ascent_by`."""
        if exchange.members == 1:
            return self._alone.update(member, batch, exchange)
        rho_loss, rho_div = (warmed_up(rho, batch.progress, self.rho_warmup) for rho in (self.rho_loss, self.rho_div))
        if self._sibling is not None:
            return self._sibling.update(member, batch, exchange, rho_loss, rho_div, self.ascent_sync)
        totals = Totals(len(batch))
        g_loss, g_div = ParameterVector([]), ParameterVector([])
        for micro in batch:
            logits = member.forward(micro.x)  # at θ
            peers = exchange.gather(logits, self.diversity.views)  # starts; hidden behind the next backward
            loss, mean = micro.loss(logits), self.ascent_sync == "mean" and micro is batch.last
            g_loss = member.ascent_gradient(loss, True, self.perturb, onto=g_loss, mean=mean)
            l_div = self.diversity(logits, peers.wait(), micro)
            g_div = member.ascent_gradient(l_div, perturb=self.perturb, onto=g_div, mean=mean)
            totals.add(loss=loss, accuracy=micro.correct(logits), diversity=l_div, finite_peers=peers.wait().count)
        lengths = {"g_loss_norm": g_loss.norm(), "g_div_norm": g_div.norm(), "ascent_cosine": cosine(g_loss, g_div)}
        with member.perturbed(rho_loss * unit(g_loss) + rho_div * unit(g_div)):
            del g_loss, g_div
            for micro in batch:
                loss = micro.loss(member.forward(micro.x))  # at θ + ε
                member.backward(loss, last=micro is batch.last)
                totals.add(perturbed_loss=loss)
        member.step()  # at θ again, then the optimizer
        return totals.measured(**lengths, loss_rise=totals["perturbed_loss"] - totals["loss"])

    def restarted(self) -> None:
        for part in self._parts:
            part.restarted()

    def state_dict(self) -> dict[str, Any]:
        return {name: value for part in self._parts for name, value in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in self._parts:
            part.load_state_dict(state)

    @property
    def _parts(self) -> list[SAM | Reuse]:
        """What remembers something between updates."""
        reuse = self._sibling.reuse if self._sibling is not None else None
        return [self._alone] if reuse is None else [self._alone, reuse]
