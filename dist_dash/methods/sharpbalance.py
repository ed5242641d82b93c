"""SharpBalance (Lu et al. 2024, arXiv 2407.12996): each member flattens the samples that are sharp for its peers.

Up to `from_epoch` all members do SAM on all samples. Then, once, each scores every training sample,

    s_i(x) = ‖∇ℓ(θ_i; x, y)‖²      in evaluation mode, not augmented;   S_i = the ⌊share · N⌋ sharpest

and exchanges its set. Member i flattens `∪_{j≠i} S_j` and some of the samples that are in no set at all; the others it
only fits: with n samples in an update, of which n_s are flattened,

    descend  Σ_plain ∇ℓ / n + (n_s / n) ∇L_s(θ + ρ unit(∇L_s(θ)))      L_s the mean over the flattened ones

Cost: that of SAM at first; then F + 2G, and another F + G in the share of the samples that are flattened; once a pass
over all samples with a gradient each. One exchange of N numbers in the run.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from dist_dash.errors import BadInput, require, require_count, require_non_negative
from dist_dash.member.batch import Batch
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.member.per_sample import squared_gradient_norms
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods.method import Measured, Method, Samples, Totals, backward_of_part
from dist_dash.methods.sam import SAM
from dist_dash.ranks.exchange import Exchange


class SharpBalance(Method):
    """SAM on the samples that other members find sharp.

    Args:
        rho: radius of the perturbation.
        share: κ in (0, 1), share of the samples in each member's own set. With 3 members and κ = 0.5 about 80 % of all
            samples are flattened.
        from_epoch: the epoch, counted from 0, before which the sets are made; null: at half of the run.
        sharpest: `high`: the samples with the largest scores are sharp, as the paper says; `low`: those with the
            smallest, as the authors' code has it.
        rest: of the samples in no set, `split`: each member flattens every `part`-th, beginning with its own number;
            `all_but_split`: all but those (the authors' code on CIFAR-10).
        part: see there; by the authors the number of members.
        perturb: as in SAM.
    """

    exchanges = True

    def __init__(
        self,
        rho: float = 0.05,
        share: float = 0.5,
        from_epoch: int | None = None,
        sharpest: Literal["high", "low"] = "high",
        rest: Literal["split", "all_but_split"] = "split",
        part: int = 3,
        perturb: str = "all",
    ) -> None:
        require(0 < share < 1, "method.share", share, "a number in (0, 1)")
        require_non_negative("method.rho", rho)
        require_count("method.from_epoch", from_epoch, least=0)
        require_count("method.part", part)
        require(sharpest in ("high", "low"), "method.sharpest", sharpest, "high or low")
        require(rest in ("split", "all_but_split"), "method.rest", rest, "split or all_but_split")
        self.rho, self.share, self.from_epoch, self.sharpest, self.rest = rho, share, from_epoch, sharpest, rest
        self.part, self.perturb = part, perturb
        self._first_stage = SAM(rho, perturb=perturb)
        self._epochs = 0  # of the run
        self._flattened: Tensor | None = None

    def copies(self, members: int) -> int:
        return 2

    def check(self, facts: RunFacts) -> None:
        if facts.members == 1:
            raise BadInput("members: 1 has no peers whose sharp samples it could flatten; SharpBalance needs 2 or more")
        if facts.mixed:
            raise BadInput("labels.mixup: samples are mixed, so that none has a sharpness of its own; it must be 0")
        epochs = -(-facts.total_steps // facts.steps_per_epoch)
        if self.from_epoch is not None and self.from_epoch >= epochs:
            allowed = f"below {epochs}, the epochs of the run, or null"
            require(False, "method.from_epoch", self.from_epoch, allowed)
        self._epochs = epochs

    def before_epoch(self, epoch: int, member: Member, samples: Samples, exchange: Exchange) -> None:
        begin = self._epochs // 2 if self.from_epoch is None else self.from_epoch
        if epoch < begin or self._flattened is not None:
            return
        ids, scores = [], []
        for micro in samples("train"):
            ids.append(micro.ids.to(micro.x.device))
            scores.append(squared_gradient_norms(member, micro))
        # A table by sample id: replicas have each scored their share of the samples.
        ids_here, highest = torch.cat(ids), max(exchange.collect(max((int(i.max()) for i in ids if len(i)), default=0)))
        table = torch.zeros(2, highest + 1, dtype=torch.float64, device=ids_here.device)
        table[0, ids_here], table[1, ids_here] = torch.cat(scores), 1.0
        score, known = exchange.mean_over_replicas(table) * exchange.layout.replicas
        everyone = exchange.stack(self._own_set(score, known > 0)).wait()
        sets = (everyone.values > 0.5) & everyone.finite.unsqueeze(1)  # a member that is not finite finds none sharp
        self._flattened = self._set_of_member(sets, known > 0, exchange.layout.member)

    def _own_set(self, scores: Tensor, known: Tensor) -> Tensor:
        """S_i as 1 and 0, one per sample id; NaN where this member's scores are not finite."""
        if not scores.isfinite().all():
            return torch.full_like(scores, torch.nan, dtype=torch.float32)
        ranked = scores if self.sharpest == "low" else -scores
        order = ranked.masked_fill(~known, torch.inf).argsort(stable=True)  # ties by id
        own = torch.zeros_like(scores, dtype=torch.float32)
        own[order[: int(self.share * int(known.sum()))]] = 1.0
        return own

    def _set_of_member(self, sets: Tensor, known: Tensor, own: int) -> Tensor:
        """What a member flattens, `[ids]` bool.

        Args:
            sets: of all members, `[members, ids]` bool.
            known: which ids are those of samples, `[ids]` bool.
            own: the member.
        """
        others = torch.cat([sets[:own], sets[own + 1 :]]).any(0)
        nobody = known & ~sets.any(0)
        split = torch.zeros_like(nobody)
        split[nobody.nonzero().flatten()[own % self.part :: self.part]] = True
        return others | (split if self.rest == "split" else nobody & ~split)

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        if self._flattened is None:
            return self._first_stage.update(member, batch, exchange)
        totals, g = Totals(len(batch)), ParameterVector([])
        number = sum(len(micro.x) for micro in batch)
        flattened = [self._flattened.to(micro.x.device)[micro.ids.to(micro.x.device)] for micro in batch]
        for micro, chosen in zip(batch, flattened, strict=True):
            logits = member.forward(micro.x)
            losses = micro.loss(logits, "none") / number
            g += member.gradient((losses * chosen).sum(), retain_graph=True, share=1)
            member.backward((losses * ~chosen).sum(), share=1)
            totals.add(loss=losses.sum() * len(batch), accuracy=micro.correct(logits), flattened=chosen.double().mean())
        with member.perturbed(self.rho * unit(member.restricted(g, self.perturb))):
            for micro, chosen in zip(batch, flattened, strict=True):
                backward_of_part(member, micro, chosen.to(micro.target.dtype) / number)
        member.step()
        return totals.measured(g_loss_norm=g.norm())

    def restarted(self) -> None:
        self._flattened = None

    def state_dict(self) -> dict[str, Any]:
        return {"flattened": self._flattened}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._flattened = state["flattened"]
