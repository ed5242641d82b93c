"""Repulsive ensembles (D'Angelo & Fortuin 2021, arXiv 2106.11642): members push each other away.

With `k(a, b) = exp(−‖a − b‖² / (2h))`, `f_i` the member's outputs on the batch (or its weights), peers constant:

kde     descend  ∇ [ L_i + (λ / N) log Σ_j k(f_i, f_j) ]                            j over all members, i included
svgd    descend  (1/m) Σ_j [ k(f_j, f_i) ∇_{f_j} L_j − (λ / N) ∇_{f_j} k(f_j, f_i) ], taken back to the weights

N is the number of samples in the micro-batch where f are outputs; of all training samples where they are weights
(updates per epoch times samples per update). λ = 1 is then the authors' rule. `h = median / (2 ln(m + 1))` of the
squared distances. The prior is the optimizer's weight decay. Cost: F + G (with the SAM point: 2F + 2G), and an
all-gather that no backward hides; for weights, one of the whole network.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dist_dash.errors import BadInput, require, require_non_negative
from dist_dash.member.batch import Batch, MicroBatch
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector
from dist_dash.methods.method import Measured, Method, Totals, ascent
from dist_dash.methods.sam import SAM
from dist_dash.ranks.exchange import Exchange


class Repulsive(Method):
    """Members that repel each other.

    A member that is not finite has no part in the sum or the median. Members that are equal exert no force on each
    other, and never part.

    Args:
        weight: λ.
        space: what repels: `logits`, `probs` (their softmax) or `weights` (small networks of one architecture).
        kernel: `kde` or `svgd`, see above.
        bandwidth: the median is that of the `pairs` of different members, or, as in the `authors`' code, of all m²
            distances, the zeros of the diagonal among them.
        base: where gradients and outputs are taken: at the weights (`SGD`) or at the member's own `SAM` point.
        rho: radius of the SAM point.
        ascent_sync: of the SAM point, as in SAM.
        perturb: of the SAM point, as in SAM.
    """

    exchanges = True

    def __init__(
        self,
        weight: float = 1.0,
        space: Literal["logits", "probs", "weights"] = "logits",
        kernel: Literal["kde", "svgd"] = "kde",
        bandwidth: Literal["pairs", "authors"] = "pairs",
        base: Literal["SGD", "SAM"] = "SGD",
        rho: float = 0.05,
        ascent_sync: Literal["local", "mean"] = "local",
        perturb: str = "all",
    ) -> None:
        require_non_negative("method.weight", weight)
        require_non_negative("method.rho", rho)
        require(space in ("logits", "probs", "weights"), "method.space", space, "logits, probs or weights")
        require(kernel in ("kde", "svgd"), "method.kernel", kernel, "kde or svgd")
        require(bandwidth in ("pairs", "authors"), "method.bandwidth", bandwidth, "pairs or authors")
        require(base in ("SGD", "SAM"), "method.base", base, "SGD or SAM")
        self.weight, self.space, self.kernel, self.bandwidth, self.base = weight, space, kernel, bandwidth, base
        self.rho, self.ascent_sync, self.perturb = rho, ascent_sync, perturb
        self._point = SAM(rho, ascent_sync=ascent_sync, perturb=perturb)

    def copies(self, members: int) -> int:
        return 2 + (2 * members + 2 if self.space == "weights" else 0)

    def check(self, facts: RunFacts) -> None:
        if len(facts.heads) > 1:
            raise BadInput(f"method: Repulsive is not defined for {len(facts.heads)} heads; it must be one head")
        if self.space == "weights" and not facts.alike:
            raise BadInput("method.space: weights needs members of one architecture; use logits or probs")

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals, epsilon = Totals(len(batch)), ParameterVector([])
        if self.base == "SAM":
            g = ascent(member, batch, Totals(len(batch)), self.ascent_sync, self.perturb)
            epsilon = self.rho * self._point.direction(member, g)
        with member.perturbed(epsilon, only_forward=self.base == "SGD"):
            if self.space == "weights":
                self._between_weights(member, batch, exchange, totals)
            else:
                self._between_outputs(member, batch, exchange, totals)
        member.step()
        return totals.measured()

    def _between_outputs(self, member: Member, batch: Batch, exchange: Exchange, totals: Totals) -> None:
        for micro in batch:
            logits = member.forward(micro.x)
            loss = micro.loss(logits)
            outputs = logits if self.space == "logits" else torch.softmax(logits, -1)
            own, scale = outputs.flatten(), self.weight / len(micro.x)
            if self.kernel == "kde":
                everyone = exchange.stack(own).wait()
                repulsion = scale * self._log_density(own, everyone.values, everyone.finite, exchange.layout.member)
                member.backward(loss + repulsion, last=micro is batch.last)
            else:
                score = self._gradient_in_outputs(micro, logits.detach())
                everyone = exchange.stack(torch.stack([own, score.flatten()])).wait()
                force = self._stein(everyone.values, everyone.finite, exchange.layout.member, scale)
                repulsion = (own * force).sum()
                member.backward(repulsion, last=micro is batch.last)
            totals.add(loss=loss, accuracy=micro.correct(logits), repulsion=repulsion)

    def _between_weights(self, member: Member, batch: Batch, exchange: Exchange, totals: Totals) -> None:
        samples = sum(len(micro.x) for micro in batch) * exchange.layout.replicas
        scale, rank = self.weight / (samples * batch.progress.steps_per_epoch), exchange.layout.member
        own = torch.cat([p.detach().flatten() for p in member.parameters])
        waiting = exchange.stack(own) if self.kernel == "kde" else None  # hidden behind all passes
        g = ascent(member, batch, totals, "local")
        flat = torch.cat([t.flatten() for t in g.materialised()])
        if waiting is not None:
            everyone, live = waiting.wait(), own.requires_grad_()
            density = self._log_density(live, everyone.values, everyone.finite, rank)
            (force,) = torch.autograd.grad(density, live)
            force = flat + scale * force
        else:
            everyone = exchange.stack(torch.stack([own, flat])).wait()
            force = self._stein(everyone.values, everyone.finite, rank, scale)
        parts = force.split([p.numel() for p in member.parameters])
        member.descend(ParameterVector([f.view_as(p) for f, p in zip(parts, member.parameters, strict=True)]))

    def _log_density(self, own: Tensor, everyone: Tensor, finite: Tensor, rank: int) -> Tensor:
        """`log Σ_j k(own, f_j)`, its gradient in `own` alone; 0 where this member is not finite or all are equal.

        Args:
            own: `[d]`, with a graph.
            everyone: `[members, d]`, constants.
            finite: `[members]` bool.
            rank: this member's place.
        """
        present = everyone[finite]
        width = self._width(present)
        if not finite[rank] or width == 0:
            return own[:0].sum()  # 0, with a graph
        return torch.logsumexp(-(present - own).square().sum(1) / (2 * width), 0)

    def _stein(self, everyone: Tensor, finite: Tensor, rank: int, scale: float) -> Tensor:
        """`(1/m) Σ_j [ k(f_j, f_i) ∇L_j − scale ∇_{f_j} k(f_j, f_i) ]` of member i `[d]`.

        Args:
            everyone: `[members, 2, d]`: outputs (or weights) f_j and gradients ∇_{f_j} L_j.
            finite: `[members]` bool.
            rank: i.
            scale: λ / N.
        """
        own, gradient = everyone[rank]
        others, gradients = everyone[finite].unbind(1)
        width = self._width(others)
        if not finite[rank] or width == 0:
            return gradient
        away = others - own
        kernel = torch.exp(-away.square().sum(1) / (2 * width)).unsqueeze(1)
        return (kernel * (gradients + (scale / width) * away)).mean(0)

    def _width(self, present: Tensor) -> Tensor:
        """h from the finite members' values `[m, d]`; 0 where they are all equal, or alone."""
        distances = torch.stack([(present - one).square().sum(1) for one in present]) if len(present) else present
        if self.bandwidth == "pairs":
            above = torch.ones_like(distances, dtype=torch.bool).triu(1)
            distances = distances[above]
        if not distances.numel():
            return present.new_zeros(())
        return distances.double().quantile(0.5).to(present.dtype) / (2 * math.log(len(present) + 1))

    def _gradient_in_outputs(self, micro: MicroBatch, logits: Tensor) -> Tensor:
        """∇_f L `[n, C]`; of probabilities, up to a number that is the same for all classes, which moves nothing."""
        leaf = (logits if self.space == "logits" else torch.log_softmax(logits, -1).exp()).requires_grad_()
        loss = micro.loss(leaf if self.space == "logits" else leaf.clamp_min(torch.finfo(leaf.dtype).tiny).log())
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient
