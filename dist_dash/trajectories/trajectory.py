"""What every trajectory is: how one chain of updates becomes one or more members."""

from __future__ import annotations

from abc import ABC, abstractmethod

from dist_dash.member.facts import RunFacts


class Trajectory(ABC):
    """The learning rate over a run, and what becomes of the chain of weights on its way.

    A pure function of the update's index: nothing to save, nothing to lose in a resume. A subclass is one class in one
    file; its typed, documented constructor is its configuration.
    """

    @abstractmethod
    def factor(self, step: int, steps_per_epoch: int, total_steps: int) -> float:
        """The factor on the configured learning rate for update `step` (from 0) of a run of `total_steps` updates."""

    def members(self, steps_per_epoch: int, total_steps: int) -> list[int]:
        """After how many updates the weights become a member, ascending; the last entry is `total_steps`."""
        return [total_steps]

    def restarts(self, steps_per_epoch: int, total_steps: int) -> list[int]:
        """Before which updates (from 0) weights and optimizer start anew, ascending."""
        return []

    def check(self, facts: RunFacts) -> None:  # noqa: B027
        """Refuse what cannot work before anything starts.

        Raises:
            BadInput: with the field, the value and what is allowed.
        """

    def rate_range(self, steps_per_epoch: int, total_steps: int) -> tuple[float, float]:
        """The lowest and the highest factor of the run."""
        factors = [self.factor(step, steps_per_epoch, total_steps) for step in range(total_steps)]
        return min(factors), max(factors)
