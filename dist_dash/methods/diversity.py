"""L_div as DASH and its siblings use it: which peers, which classes, which temperature."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dist_dash.errors import BadInput, require_positive
from dist_dash.member.batch import MicroBatch
from dist_dash.member.facts import RunFacts
from dist_dash.member.losses import diversity
from dist_dash.ranks.peers import Peers, View


class Diversity:
    """`L_div,i = mean_B KL( σ(ẑ_i/τ) ‖ σ(ẑ_-i/τ) )` of a member against its peers, which are constants.

    Args:
        temperature: τ.
        peers: how the others are combined into ẑ_-i: `mean_logits`, or `mean_probs` (the log of their mean softmax).
        classes: `non_target` leaves the true class out of both distributions; `all` keeps it.
    """

    def __init__(
        self,
        temperature: float,
        peers: Literal["mean_logits", "mean_probs"],
        classes: Literal["non_target", "all"],
    ) -> None:
        require_positive("method.temperature", temperature)
        self.temperature, self.peers, self.classes = temperature, peers, classes

    @property
    def views(self) -> tuple[View, ...]:
        """The averages over the peers that are needed."""
        return ("probs",) if self.peers == "mean_probs" else ("logits",)

    def check(self, facts: RunFacts) -> None:
        """Refuse a KL that is identically 0: with fewer than two classes left there is nothing to disagree on."""
        if facts.members == 1:
            return
        if len(facts.heads) > 1:
            raise BadInput(f"method: DASH is not defined for {len(facts.heads)} heads; it must be one head")
        if self.classes == "non_target" and facts.classes - (2 if facts.mixed else 1) < 2:
            true = "two true classes (mixup)" if facts.mixed else "the true class"
            left = f"non_target leaves one of {facts.classes} classes without {true}"
            raise BadInput(f"method.classes: {left}; it must be all")

    def __call__(self, logits: Tensor, peers: Peers, micro: MicroBatch) -> Tensor:
        """L_div of `logits` `[n, C]`, 0-dimensional; the gradient flows into them alone."""
        excluded = micro.true_classes if self.classes == "non_target" else None
        if self.peers == "mean_logits":
            return diversity(logits, peers.mean_logits, excluded, self.temperature)
        tiny = torch.finfo(logits.dtype).tiny
        own = torch.softmax(logits, -1).clamp_min(tiny).log()  # as the peers' are made: equal members stay equal
        return diversity(own, peers.mean_probs.clamp_min(tiny).log(), excluded, self.temperature)
