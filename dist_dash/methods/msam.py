"""Momentum-SAM (Becker et al. 2024, arXiv 2401.12033): the optimizer's momentum in place of a second gradient.

`ε = −ρ unit(v)`, where v is the momentum to which the optimizer adds its gradients; descend `∇L(θ + ε)`.
Cost: F + G, that of SGD. Nothing crosses between members.
"""

from __future__ import annotations

from dist_dash.errors import BadInput
from dist_dash.member.batch import Batch
from dist_dash.member.facts import RunFacts
from dist_dash.member.member import Member
from dist_dash.member.optimizer import momentum_of
from dist_dash.member.vector import ParameterVector, unit
from dist_dash.methods.method import Measured, Totals, warmed_up
from dist_dash.methods.sam import SAM
from dist_dash.ranks.exchange import Exchange


class MSAM(SAM):
    """Momentum-SAM: the sign is the authors', who look ahead along the momentum (as Nesterov, but ρ far).

    The only forward is at θ + ε; batch-norm statistics move there. The first update has no momentum yet: it is SGD's.

    Args:
        rho: radius of the perturbation; the authors use 0.3 and more.
        rho_warmup: as in SAM.
        perturb: as in SAM.
    """

    stacked = False
    needs_gradient = False

    def __init__(self, rho: float = 0.3, rho_warmup: int = 0, perturb: str = "all") -> None:
        super().__init__(rho, rho_warmup=rho_warmup, perturb=perturb)

    def check(self, facts: RunFacts) -> None:
        if facts.zero:
            raise BadInput(f"engine.zero: {facts.zero} shards the momentum that MSAM ascends by; it must be 0")

    def check_network(self, member: Member) -> None:
        super().check_network(member)
        for group in member.engine.optimizer.param_groups:
            momentum = group.get("momentum", group.get("betas", (0.0,))[0])
            if not momentum:
                raise BadInput(f"optimizer.momentum: {momentum} leaves MSAM nothing to ascend by; it must be above 0")

    def direction(self, member: Member, gradient: ParameterVector) -> ParameterVector:
        momentum = ParameterVector(momentum_of(member.engine.optimizer, member.parameters))
        return -1.0 * unit(member.restricted(momentum, self.perturb))

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        totals = Totals(len(batch))
        rho = warmed_up(self.rho, batch.progress, self.rho_warmup)
        with member.perturbed(rho * self.direction(member, ParameterVector([])), only_forward=True):
            for micro in batch:
                logits = member.forward(micro.x)
                loss = micro.loss(logits)
                member.backward(loss, last=micro is batch.last)
                totals.add(loss=loss, accuracy=micro.correct(logits))
        member.step()
        return totals.measured()
