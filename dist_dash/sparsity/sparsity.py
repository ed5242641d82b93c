"""What every sparsity is: it owns a member's masks, and is asked before and after every update."""

from __future__ import annotations

from typing import Any

from dist_dash.errors import require
from dist_dash.member.batch import Batch
from dist_dash.member.facts import RunFacts
from dist_dash.member.late import Truth
from dist_dash.member.member import Member
from dist_dash.ranks.exchange import Exchange


class Sparsity:
    """Owns `member.masks`: one tensor of 0 and 1 per parameter, or None where all of its weights exist.

    The member applies the masks wherever they matter: to gradients and perturbations, to the descent gradient before
    it is clipped, to the weights after the update. Masks must be equal on a member's replicas: whatever decides about
    them is drawn from a derived seed or rests on means over replicas.
    """

    def check(self, facts: RunFacts) -> None:
        """Refuse what cannot work before anything starts.

        Raises:
            BadInput: with the field, the value and what is allowed.
        """
        allowed = "0 with sparse members: ZeRO's flat shards hold weights that do not exist"
        require(facts.zero == 0, "engine.zero", facts.zero, allowed)

    def start(self, member: Member) -> None:
        """Set the masks of a member whose weights have just been drawn; not called at a resume."""

    def before_update(self, member: Member, batch: Batch, exchange: Exchange) -> None:
        """Called before every update, such as for a gradient with respect to weights that do not exist."""

    def after_update(self, member: Member, batch: Batch, moved: Truth) -> None:
        """Called after every update; `moved`: what `member.step()` returned."""

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs beside the member's masks."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; its tensors are on the host."""


class Dense(Sparsity):
    """All weights exist."""

    def check(self, facts: RunFacts) -> None:
        pass
