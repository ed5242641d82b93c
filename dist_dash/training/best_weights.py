"""Which evaluation on the validation split was the best so far, and whether it is time to end early."""

from __future__ import annotations

from typing import Any

from dist_dash.data.dataset import DataSet
from dist_dash.ensembles.evaluation import Evaluated
from dist_dash.errors import require
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.recipe import Recipe


class BestWeights:
    """The best validation score of the ensemble, equal on all ranks.

    Args:
        recipe: `checkpoints.best` names the score, `checkpoints.patience` how many evaluations without a better one
            end the run.
        exchange: joined.
    """

    def __init__(self, recipe: Recipe, exchange: Exchange) -> None:
        self._exchange, self._every = exchange, recipe.record.evaluate_every
        self._name = (recipe.checkpoints.best or "").removeprefix("validation_")
        self._patience = recipe.checkpoints.patience
        self.step: int | None = None
        self.score: float | None = None
        self._since = 0

    @property
    def kept(self) -> bool:
        """Whether the best weights are those that are exported."""
        return bool(self._name)

    @property
    def waited_enough(self) -> bool:
        """Whether the run ends, as nothing has become better for so many evaluations."""
        return bool(self._patience) and self._since >= self._patience

    def check(self, recipe: Recipe, data: DataSet, layout: Layout, members_of_chain: int) -> None:
        """Refuse what cannot work before anything starts.

        Raises:
            BadInput: there is no validation split or no evaluation, or other weights than the best would be members.
        """
        if not self.kept:
            return
        best, whole = recipe.checkpoints.best, layout.members == layout.ensemble_members
        split = "null without a validation split (labels.validation makes one)"
        require(data.validation is not None, "checkpoints.best", best, split)
        require(self._every > 0, "record.evaluate_every", self._every, "1 or more with checkpoints.best")
        require(whole, "checkpoints.best", best, "null where members are trained apart: it is the whole ensemble's")
        require(members_of_chain == 1, "checkpoints.best", best, "null with a schedule that saves several members")

    def is_best(self, found: Evaluated | None, step: int) -> bool:
        """Whether the evaluation, of which rank 0 knows the scores, is the best so far; on all ranks alike.

        Args:
            found: on rank 0; None where members are not finite: it counts as one that is not better.
            step: that was evaluated.
        """
        if not self.kept:
            return False
        known = None if found is None else float(found.result["ensemble"][self._name])
        score = self._exchange.collect(known)[0]
        higher = self._name == "accuracy"
        better = score is not None and (self.score is None or (score > self.score if higher else score < self.score))
        self._since = 0 if better else self._since + 1
        if better:
            self.step, self.score = step, score
        return better

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"step": self.step, "score": self.score, "since": self._since, "every": self._every}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave.

        Raises:
            BadInput: the run was stopped with another number of epochs between evaluations.
        """
        every = state["every"]
        require(not self.kept or every == self._every, "record.evaluate_every", self._every, f"{every}, as before")
        self.step, self.score, self._since = state["step"], state["score"], state["since"]
