"""The siblings of DASH: other algorithms over the same diversity, exchange and perturbation.

joint     ε = ρ₁ · unit(∇(L + λ L_div));                        2F + 2G
random    ε = ρ₁ · unit(∇L) + ρ₂ · unit(normal): the control;   2F + 2G
descent   ε = ρ₁ · unit(∇L);  g = ∇(L − λ L_div) at θ + ε;      2F + 2G, and a second exchange
none      ε = ρ₁ · unit(∇L): the SAM ensemble, which records L_div;   2F + 2G
every k   of the first three: the ascent at every k-th update only, see `reuse.py`
ascent_by ASAM, FSAM or MSAM in place of unit(∇L) or unit(∇(L + λ L_div)), see there; MSAM saves the gradient of L
γ         on top of any: g = (1−γ) ∇L at θ + ε + γ ∇L_ens at θ_ens + ρ₁ √m · unit(∇L_ens), where
          L_ens = −log mean_j σ(z_j)_y and θ_ens are all m members taken as one vector;   F + 2G more, one more
          exchange and the sum of one number
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dist_dash.errors import BadInput, require
from dist_dash.member.batch import Batch, MicroBatch
from dist_dash.member.late import Truth
from dist_dash.member.losses import ensemble_loss
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, cosine, unit
from dist_dash.methods.asam import ASAM
from dist_dash.methods.diversity import Diversity
from dist_dash.methods.fsam import FSAM
from dist_dash.methods.method import Measured, Totals, gradient_at
from dist_dash.methods.msam import MSAM
from dist_dash.methods.reuse import Reuse
from dist_dash.methods.sam import SAM
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.peers import Peers, View


class Sibling:
    """One update by a sibling of DASH.

    Args:
        kind: where the diversity goes, see above; `diversity` is DASH itself, for use with γ.
        diversity: L_div.
        weight: λ.
        gamma: γ.
        along: what gives the direction of the loss part of ε.
        reuse: the direction that is kept between updates, where the ascent is not one of every update.
    """

    def __init__(
        self,
        kind: Literal["diversity", "joint", "random", "descent", "none"],
        diversity: Diversity,
        weight: float,
        gamma: float,
        along: SAM,
        reuse: Reuse | None,
    ) -> None:
        self.kind, self.diversity, self.weight, self.gamma = kind, diversity, weight, gamma
        self.along, self.reuse = along, reuse
        if reuse is not None and (kind not in ("diversity", "random") or gamma):
            allowed = "ascent: separate, diversity_in: ascent and gamma: 0"
            raise BadInput(f"method.every: {reuse.every} is not allowed here; above 1 it needs {allowed}")
        if kind == "joint" and isinstance(along, MSAM):
            raise BadInput("method.ascent: joint needs a gradient, and ascent_by: MSAM takes none; use separate")
        of_ensemble: tuple[View, ...] = ("probs",) if gamma and "probs" not in diversity.views else ()
        self._views = (*diversity.views, *of_ensemble)

    @property
    def copies(self) -> int:
        """Vectors as long as all parameters that are held at most."""
        own = 4 if self.kind in ("diversity", "random") else 2
        return own + (self.gamma > 0) + self.along.copies(1) - 2 + 3 * (self.reuse is not None)

    def update(
        self,
        member: Member,
        batch: Batch,
        exchange: Exchange,
        rho_loss: float,
        rho_div: float,
        ascent_sync: Literal["local", "mean"],
    ) -> Measured:
        """Ascend on every micro-batch, descend on every micro-batch from θ + ε, then (γ) from θ_ens + ε_ens."""
        reuse = self.reuse
        if reuse is not None and not reuse.due(batch.progress):
            return reuse.update_between(member, batch)
        totals = Totals(len(batch))
        g_loss, g_div, g_ens = ParameterVector([]), ParameterVector([]), ParameterVector([])
        for micro in batch:
            mean = ascent_sync == "mean" and micro is batch.last
            g_loss, g_div, g_ens = self._ascend(member, micro, exchange, totals, (g_loss, g_div, g_ens), mean)
        if self.kind == "random":
            g_div = member.random_direction(batch.progress.step, self.along.perturb)
        lengths = self._lengths(g_loss, g_div)
        along = self.along.direction(member, member.restricted(g_loss, self.along.perturb))
        epsilon = rho_loss * along + rho_div * unit(g_div)
        if reuse is not None:
            g_s = gradient_at(epsilon, member, batch, totals, "mean")
            moved = reuse.finish(member, g_loss if ascent_sync == "mean" else member.mean_over_replicas(g_loss), g_s)
            return self._finished(moved, totals, lengths)
        del g_loss, g_div, along
        with member.perturbed(epsilon):
            del epsilon
            for micro in batch:
                self._descend(member, micro, exchange, totals, last=not self.gamma and micro is batch.last)
        if self.gamma:
            square = g_ens.norm().square().nan_to_num(posinf=0.0)  # a non-finite member leaves the others their ε_ens
            norm = exchange.sum_over_members(square).sqrt()  # over all members: θ_ens is one vector
            with member.perturbed(rho_loss * exchange.members**0.5 * unit(g_ens, norm)):
                del g_ens
                for micro in batch:
                    logits = member.forward(micro.x)
                    peers = exchange.gather(logits, ("probs",))
                    loss = self.gamma * _ensemble_loss(logits, peers.wait(), micro)
                    member.backward(loss, last=micro is batch.last)
        return self._finished(member.step(), totals, lengths)

    def _finished(self, moved: Truth, totals: Totals, lengths: Measured) -> Measured:
        self.along.keep(moved)
        return totals.measured(**lengths, loss_rise=totals["perturbed_loss"] - totals["loss"])

    def _ascend(
        self,
        member: Member,
        micro: MicroBatch,
        exchange: Exchange,
        totals: Totals,
        before: tuple[ParameterVector, ParameterVector, ParameterVector],
        mean: bool,
    ) -> tuple[ParameterVector, ParameterVector, ParameterVector]:
        """∇L (joint: of L + λ L_div), ∇L_div and ∇L_ens at θ, added to those before; empty where not needed."""
        g_loss, g_div, g_ens = before
        logits = member.forward(micro.x)
        peers = exchange.gather(logits, self._views)
        loss, again, perturb = micro.loss(logits), self.gamma > 0, self.along.perturb
        if self.kind == "joint":
            l_div = self.diversity(logits, peers.wait(), micro)
            g_loss = member.ascent_gradient(loss + self.weight * l_div, again, perturb, onto=g_loss, mean=mean)
        else:
            more = again or self.kind == "diversity"
            if self.reuse is not None:  # all of it is descended later
                g_loss = member.gradient(loss, more, onto=g_loss, mean=mean)
            elif self.along.needs_gradient:
                g_loss = member.ascent_gradient(loss, more, perturb, onto=g_loss, mean=mean)
            l_div = self.diversity(logits, peers.wait(), micro)
            if self.kind == "diversity":
                g_div = member.ascent_gradient(l_div, again, perturb, onto=g_div, mean=mean)
        if self.gamma:
            l_ens = _ensemble_loss(logits, peers.wait(), micro)
            g_ens = member.ascent_gradient(l_ens, perturb=perturb, onto=g_ens, mean=mean)
        totals.add(loss=loss, accuracy=micro.correct(logits), diversity=l_div, finite_peers=peers.wait().count)
        return g_loss, g_div, g_ens

    def _descend(self, member: Member, micro: MicroBatch, exchange: Exchange, totals: Totals, last: bool) -> None:
        """Add (1 − γ) ∇L, or (1 − γ) ∇(L − λ L_div), at θ + ε."""
        logits = member.forward(micro.x)
        loss = micro.loss(logits)
        totals.add(perturbed_loss=loss)
        if self.kind == "descent":
            peers = exchange.gather(logits, self.diversity.views)  # at their own SAM points
            loss = loss - self.weight * self.diversity(logits, peers.wait(), micro)
        member.backward((1 - self.gamma) * loss, last=last)

    def _lengths(self, g_loss: ParameterVector, g_div: ParameterVector) -> Measured:
        if self.kind == "joint":
            return {"g_joint_norm": g_loss.norm()}  # of ∇(L + λ L_div)
        if not g_loss.tensors:
            return {"g_div_norm": g_div.norm()}
        if self.kind != "diversity":
            return {"g_loss_norm": g_loss.norm()}
        return {"g_loss_norm": g_loss.norm(), "g_div_norm": g_div.norm(), "ascent_cosine": cosine(g_loss, g_div)}


def ascending_by(
    name: Literal["SAM", "ASAM", "FSAM", "MSAM"],
    rho: float,
    ascent_sync: Literal["local", "mean"],
    rho_warmup: int,
    perturb: str,
) -> SAM:
    """The method whose direction the loss part of ε takes, and whose update a member without peers does."""
    if name == "MSAM":
        return MSAM(rho, rho_warmup, perturb)
    kinds: dict[str, type[SAM]] = {"SAM": SAM, "ASAM": ASAM, "FSAM": FSAM}
    require(name in kinds, "method.ascent_by", name, "SAM, ASAM, FSAM or MSAM")
    return kinds[name](rho, ascent_sync=ascent_sync, rho_warmup=rho_warmup, perturb=perturb)


def _ensemble_loss(logits: Tensor, peers: Peers, micro: MicroBatch) -> Tensor:
    return ensemble_loss(logits, peers.mean_probs, peers.count[..., None, None], micro.target)
