"""DASH: diversity-aware ascent, sharpness-aware descent (Bui et al., arXiv 2403.13204).

    L_div,i = mean_B KL( σ(ẑ_i/τ) ‖ σ(ẑ_-i/τ) )       ẑ without the true class; ẑ_-i the other members, constants
    ε_i     = ρ₁ · unit(∇L_i) + ρ₂ · unit(∇L_div,i)    both gradients at θ_i
    g_i     = ∇L_i at θ_i + ε_i ;   θ_i ← optimizer(θ_i, g_i)

Cost: 2F + 3G (separate), 2F + 2G (joint); one all-gather of `[n, C]` logits per ascent, hidden behind the backward of
L_i. γ adds F + 2G, one more all-gather and the sum of one number.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dist_dash.errors import BadInput, require, require_non_negative, require_positive
from dist_dash.member.batch import Batch, MicroBatch
from dist_dash.member.losses import cross_entropy, diversity, ensemble_loss
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, cosine, unit
from dist_dash.methods.method import Measured, Method, Passes, Totals
from dist_dash.methods.radius import check_warmup, warmed_up
from dist_dash.methods.sam import SAM
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.peers import Peers, View


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
    """

    exchanges = True

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
    ) -> None:
        for field, value in (("rho_loss", rho_loss), ("rho_div", rho_div), ("weight", weight)):
            require_non_negative(f"method.{field}", value)
        require_positive("method.temperature", temperature)
        require(0 <= gamma <= 1, "method.gamma", gamma, "a number in [0, 1]")
        check_warmup(rho_warmup)
        if direction == "random" and (ascent == "joint" or diversity_in != "ascent"):
            raise BadInput(
                "method.direction: random is not allowed here; it needs ascent: separate and diversity_in: ascent"
            )
        if ascent == "joint" and diversity_in != "ascent":
            raise BadInput(f"method.ascent: joint has no meaning with diversity_in: {diversity_in}; use separate")
        self.rho_loss, self.rho_div, self.temperature, self.peers = rho_loss, rho_div, temperature, peers
        self.ascent, self.weight, self.classes, self.diversity_in = ascent, weight, classes, diversity_in
        self.direction, self.gamma, self.ascent_sync, self.rho_warmup = direction, gamma, ascent_sync, rho_warmup
        self._alone = SAM(rho_loss, ascent_sync=ascent_sync, rho_warmup=rho_warmup)

    @property
    def passes(self) -> Passes:
        """2F + 2G, one G more for a gradient of the diversity of its own, F + 2G more for γ."""
        own = self.ascent == "separate" and self.diversity_in == "ascent" and self.direction == "diversity"
        return Passes(2 + (self.gamma > 0), 2 + own + 2 * (self.gamma > 0))

    def copies(self, alone: bool) -> float:
        """SAM's, two for a gradient of the diversity of its own (with a summand of the perturbation), one for γ."""
        if alone:
            return self._alone.copies(alone)
        return 2.0 + 2.0 * (self.ascent == "separate" and self.diversity_in == "ascent") + (self.gamma > 0)

    def check(self, members: int, classes: int, mixed: bool) -> None:
        """Refuse a KL that is identically 0: with fewer than two classes left there is nothing to disagree on."""
        if members > 1 and self.classes == "non_target" and classes - (2 if mixed else 1) < 2:
            true = "two true classes (mixup)" if mixed else "the true class"
            raise BadInput(f"method.classes: non_target leaves one of {classes} classes without {true}; it must be all")

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        """One update; a member without peers does exactly SAM's."""
        if exchange.members == 1:
            return self._alone.update(member, batch, exchange)
        totals = Totals(len(batch))
        rho_loss, rho_div = (warmed_up(rho, batch.step, self.rho_warmup) for rho in (self.rho_loss, self.rho_div))

        g_loss, g_div, g_ens = self._ascend(member, batch, exchange, totals)  # at θ
        lengths = self._lengths(g_loss, g_div)
        with member.perturbed(rho_loss * unit(g_loss) + rho_div * unit(g_div)):
            del g_loss, g_div
            self._descend(member, batch, exchange, totals)  # at θ + ε
        if self.gamma:
            square = g_ens.norm().square().nan_to_num(posinf=0.0)  # a sick member must not take ε_ens from the others
            norm = exchange.sum_over_members(square).sqrt()  # over all members: θ_ens is one vector
            with member.perturbed(rho_loss * exchange.members**0.5 * unit(g_ens, norm)):
                del g_ens
                self._descend_ensemble(member, batch, exchange)  # at θ_ens + ε_ens
        member.step()  # at θ again
        return totals.measured(**lengths, loss_rise=totals["perturbed_loss"] - totals["loss"])

    def _ascend(
        self, member: Member, batch: Batch, exchange: Exchange, totals: Totals
    ) -> tuple[ParameterVector, ParameterVector, ParameterVector]:
        """∇L, ∇L_div and ∇L_ens over all micro-batches; empty where an option leaves one out."""
        g_loss, g_div, g_ens = ParameterVector([]), ParameterVector([]), ParameterVector([])
        by_diversity = self.diversity_in == "ascent" and self.direction == "diversity"
        for micro in batch:
            logits = member.forward(micro.x)
            peers = exchange.gather(logits, self._views)  # starts; hidden behind the next backward
            loss = cross_entropy(logits, micro.target)
            if self.ascent == "separate":
                g_loss += member.gradient(loss, retain_graph=by_diversity or self.gamma > 0)
                l_div = self._diversity(logits, peers.wait(), micro)
                if by_diversity:
                    g_div += member.gradient(l_div, retain_graph=self.gamma > 0)
            else:
                l_div = self._diversity(logits, peers.wait(), micro)
                g_loss += member.gradient(loss + self.weight * l_div, retain_graph=self.gamma > 0)
            if self.gamma:
                g_ens += member.gradient(self._ensemble_loss(logits, peers.wait(), micro))
            peers_seen = peers.wait().count.to(loss.dtype)
            totals.add(loss=loss, accuracy=micro.correct(logits), diversity=l_div, finite_peers=peers_seen)
        if self.ascent_sync == "mean":
            g_loss, g_div, g_ens = (member.mean_over_replicas(g) for g in (g_loss, g_div, g_ens))
        if self.direction == "random":
            g_div = member.random_direction(batch.step)
        return g_loss, g_div, g_ens

    def _descend(self, member: Member, batch: Batch, exchange: Exchange, totals: Totals) -> None:
        """Add (1 − γ) ∇L to the descent gradient."""
        for micro in batch:
            logits = member.forward(micro.x)
            loss = cross_entropy(logits, micro.target)
            totals.add(perturbed_loss=loss)
            if self.diversity_in == "descent":
                peers = exchange.gather(logits, self._views)  # at their own SAM points
                loss = loss - self.weight * self._diversity(logits, peers.wait(), micro)
            member.backward((1 - self.gamma) * loss)

    def _descend_ensemble(self, member: Member, batch: Batch, exchange: Exchange) -> None:
        """Add γ ∇L_ens to the descent gradient."""
        for micro in batch:
            logits = member.forward(micro.x)
            peers = exchange.gather(logits, ("probs",))
            member.backward(self.gamma * self._ensemble_loss(logits, peers.wait(), micro))

    @property
    def _views(self) -> tuple[View, ...]:
        if self.peers == "mean_probs":
            return ("probs",)
        return ("logits", "probs") if self.gamma else ("logits",)

    def _diversity(self, logits: Tensor, peers: Peers, micro: MicroBatch) -> Tensor:
        excluded = micro.true_classes if self.classes == "non_target" else None
        if self.peers == "mean_logits":
            return diversity(logits, peers.mean_logits, excluded, self.temperature)
        tiny = torch.finfo(logits.dtype).tiny
        own = torch.softmax(logits, -1).clamp_min(tiny).log()  # as the peers' are made: equal members stay equal
        return diversity(own, peers.mean_probs.clamp_min(tiny).log(), excluded, self.temperature)

    def _lengths(self, g_loss: ParameterVector, g_div: ParameterVector) -> Measured:
        if self.ascent == "joint":
            return {"g_joint_norm": g_loss.norm()}  # of ∇(L + λ L_div)
        if not g_div.tensors or self.direction == "random":
            return {"g_loss_norm": g_loss.norm()}
        return {"g_loss_norm": g_loss.norm(), "g_div_norm": g_div.norm(), "ascent_cosine": cosine(g_loss, g_div)}

    @staticmethod
    def _ensemble_loss(logits: Tensor, peers: Peers, micro: MicroBatch) -> Tensor:
        return ensemble_loss(logits, peers.mean_probs, peers.count, micro.target)
