"""Trajectories with one member and no restart: constant, cosine and stepwise learning rates."""

from __future__ import annotations

import math
from abc import abstractmethod

from dist_dash.errors import BadInput, require, require_non_negative
from dist_dash.trajectories.trajectory import Trajectory


class Schedule(Trajectory):
    """A learning rate over the run; the chain becomes one member, at its end.

    Args:
        warmup: epochs over which the rate grows linearly from near 0; a fraction of an epoch is allowed.
    """

    def __init__(self, warmup: float = 0.0) -> None:
        require_non_negative("schedule.warmup", warmup)
        self.warmup = warmup

    def factor(self, step: int, steps_per_epoch: int, total_steps: int) -> float:
        warmup = min(round(self.warmup * steps_per_epoch), total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return self.after_warmup((step - warmup) / max(1, total_steps - warmup), step / steps_per_epoch)

    @abstractmethod
    def after_warmup(self, progress: float, epoch: float) -> float:
        """The factor at `progress` in [0, 1) of what follows the warm-up, at `epoch` (not a whole number)."""


class Constant(Schedule):
    """The configured rate throughout."""

    def after_warmup(self, progress: float, epoch: float) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from the configured rate down to `floor` times it (Loshchilov & Hutter 2017, without restarts).

    Args:
        warmup: epochs over which the rate grows linearly from near 0.
        floor: the last factor.
    """

    def __init__(self, warmup: float = 0.0, floor: float = 0.0) -> None:
        super().__init__(warmup)
        require(0 <= floor <= 1, "schedule.floor", floor, "a number in [0, 1]")
        self.floor = floor

    def after_warmup(self, progress: float, epoch: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


class Step(Schedule):
    """A factor `gamma` at each milestone.

    Args:
        milestones: epochs at which the rate drops, ascending.
        gamma: the factor of each drop.
        warmup: epochs over which the rate grows linearly from near 0.
    """

    def __init__(self, milestones: list[float], gamma: float = 0.1, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        if sorted(milestones) != milestones:
            raise BadInput(f"schedule.milestones: {milestones} is not allowed; it must ascend")
        require_non_negative("schedule.gamma", gamma)
        self.milestones, self.gamma = milestones, gamma

    def after_warmup(self, progress: float, epoch: float) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
