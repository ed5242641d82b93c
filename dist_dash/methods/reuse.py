"""A direction that is kept from one expensive update to the next: what LookSAM and `DASH(every=k)` share.

Every k-th update knows `g = ∇L(θ)` and the gradient `g_s` at the perturbed point; kept is `g_v`, the part of g_s that
is orthogonal to g. The updates between descend `g + α ‖g‖ unit(g_v)`, for F + G each (Liu et al. 2022, eq. 5).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dist_dash.errors import require_count, require_non_negative
from dist_dash.member.batch import Batch, Progress
from dist_dash.member.late import Truth
from dist_dash.member.member import Member
from dist_dash.member.vector import ParameterVector, orthogonal_part, unit
from dist_dash.methods.method import Measured, Totals, ascent, on_device_of


class Reuse:
    """`g_v`, equal on a member's replicas: whatever it is made of has been averaged over them.

    Args:
        every: k, updates from one refresh to the next; the turn is that of the run's step.
        alpha: α, weight of the kept direction.
        field: the recipe's name of `every`.
    """

    def __init__(self, every: int, alpha: float, field: str) -> None:
        require_count(field, every)
        require_non_negative("method.alpha", alpha)
        self.every, self.alpha = every, alpha
        self._kept: list[Tensor] = []

    def due(self, progress: Progress) -> bool:
        """Whether this update refreshes the direction."""
        return progress.step % self.every == 0

    def update_between(self, member: Member, batch: Batch) -> Measured:
        """A whole update that uses the kept direction, or descends `g` alone where there is none yet."""
        totals = Totals(len(batch))
        g = ascent(member, batch, totals, "mean")
        descent = g
        if self._kept:
            descent = g + (self.alpha * g.norm()) * unit(ParameterVector(on_device_of(g, self._kept)))
        member.descend(descent)
        member.step()
        return totals.measured(g_loss_norm=g.norm())

    def finish(self, member: Member, g: ParameterVector, g_s: ParameterVector) -> Truth:
        """End an update that refreshes: descend `g_s`, and keep its part that is orthogonal to `g`.

        Args:
            member: at θ.
            g: ∇L(θ), averaged over replicas.
            g_s: the gradient at the perturbed point, averaged over replicas.

        Returns:
            Whether the weights moved.
        """
        member.descend(g_s)
        kept, moved = orthogonal_part(g_s, g).materialised(), member.step()
        if moved:  # a skipped update leaves the direction as it was
            self._kept = kept
        return moved

    def restarted(self) -> None:
        """The weights have started anew: drop the direction."""
        self._kept = []

    def state_dict(self) -> dict[str, Any]:
        """The kept direction."""
        return {"kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._kept = state["kept"]
