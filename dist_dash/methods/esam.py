"""ESAM (Du et al. 2022, arXiv 2110.03141): perturb some of the weights, descend on the samples that rise most.

    m_j ~ Bernoulli(β) per weight;  ε = (ρ/β) m ⊙ unit(g)  with g = ∇L(θ), so that E[ε] = ρ unit(g)
    rise_i = ℓ_i(θ + ε) − ℓ_i(θ);   descend the mean of ℓ_i(θ + ε) over the ⌈γ n⌉ samples that rise most

The mask is fresh for every update, a function of (seed, member, step). The authors' code freezes whole tensors
instead. `n` are the samples of the update on this replica. Cost: 2F + 2G where one forward at θ + ε serves to select
and to descend (`two_forwards`); (2 + γ)F + (1 + γ)G where the selected samples have a forward of their own
(`three_forwards`, as the authors have it). Nothing crosses between members.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dist_dash.errors import require, require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods.method import Measured, Method, Totals, backward_of_part
from dist_dash.ranks.exchange import Exchange


class ESAM(Method):
    """Efficient sharpness-aware minimization; each replica ascends on its own samples and selects among them.

    Args:
        rho: radius of the perturbation, in the mean over masks.
        beta: β in (0, 1], share of the weights that are perturbed; 1: all of them.
        gamma: γ in (0, 1], share of the samples that are descended on; at least one sample.
        form: `two_forwards` or `three_forwards`, see above. Where batches are normalised by their own statistics, the
            selected samples alone have others than the whole batch.
        perturb: as in SAM.
    """

    def __init__(
        self,
        rho: float = 0.05,
        beta: float = 0.6,
        gamma: float = 0.5,
        form: Literal["two_forwards", "three_forwards"] = "two_forwards",
        perturb: str = "all",
    ) -> None:
        require_non_negative("method.rho", rho)
        for field, value in (("beta", beta), ("gamma", gamma)):
            require(0 < value <= 1, f"method.{field}", value, "a number in (0, 1]")
        require(form in ("two_forwards", "three_forwards"), "method.form", form, "two_forwards or three_forwards")
        self.rho, self.beta, self.gamma, self.form, self.perturb = rho, beta, gamma, form, perturb
        self.own_chance = beta < 1

    def copies(self, members: int) -> int:
        return 3  # beside those of SAM: the mask

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals, g, before = Totals(len(batch)), ParameterVector([]), []
        for micro in batch:
            logits = member.forward(micro.x)
            losses = micro.loss(logits, "none")
            loss = micro.loss(logits)
            g += member.ascent_gradient(loss, perturb=self.perturb)
            before.append(losses.detach())
            totals.add(loss=loss, accuracy=micro.correct(logits))
        epsilon = (self.rho / self.beta) * unit(g)
        if self.beta < 1:
            drawn = member.generator("esam", batch.progress.step)
            epsilon = epsilon.times([_mask(p, self.beta, drawn) for p in member.parameters])
        with member.perturbed(epsilon):
            del epsilon, g
            if self.gamma == 1:
                for micro in batch:
                    loss = micro.loss(member.forward(micro.x))
                    member.backward(loss, last=micro is batch.last)
                    totals.add(perturbed_loss=loss)
            elif self.form == "two_forwards":
                parts = [micro.loss(member.forward(micro.x), "none") for micro in batch]
                for part, weights in zip(parts, self._weights(parts, before), strict=True):
                    member.backward((weights * part).sum(), share=1)
                    totals.add(perturbed_loss=part.mean())
            else:
                with torch.no_grad():
                    parts = [micro.loss(member.forward(micro.x), "none") for micro in batch]
                for micro, part, weights in zip(batch, parts, self._weights(parts, before), strict=True):
                    backward_of_part(member, micro, weights)
                    totals.add(perturbed_loss=part.mean())
        member.step()
        return totals.measured(loss_rise=totals["perturbed_loss"] - totals["loss"])

    def _weights(self, losses: list[Tensor], before: list[Tensor]) -> list[Tensor]:
        """For each micro-batch its samples' weights in the descent: 1 over the number of selected ones, or 0."""
        rises = torch.cat([part.detach() for part in losses]) - torch.cat(before)
        rises = rises.nan_to_num(nan=-math.inf, posinf=-math.inf)  # a broken sample is not what rises most
        selected = rises.argsort(descending=True, stable=True)[: math.ceil(self.gamma * len(rises))]
        weights = torch.zeros_like(rises).index_fill_(0, selected, 1 / len(selected))
        return list(weights.split([len(part) for part in before]))


def _mask(parameter: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return torch.empty_like(parameter).bernoulli_(share, generator=generator)
