"""A run that trains on, beyond the length that it was started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from dist_dash.errors import BadInput
from dist_dash.runs.folder import RunFolder
from dist_dash.trajectories.trajectory import Trajectory


@dataclass(frozen=True)
class Extension:
    """What changes where a run becomes longer.

    Args:
        schedule: of the learning rate.
        steps_per_epoch: updates.
        step: updates done.
        before: length that the run was to have, in updates.
        now: length that it is to have.
    """

    schedule: Trajectory
    steps_per_epoch: int
    step: int
    before: int
    now: int

    def check(self) -> None:
        """Raise `BadInput` where the run would become shorter, or what is done is no part of the longer run."""
        if self.now < self.before:
            raise BadInput(f"extend: {self.now} updates are fewer than the {self.before} of the run; give more epochs")
        name, (short, long) = type(self.schedule).__name__, (self.before, self.now)
        for made in (self.schedule.members(self.steps_per_epoch, length) for length in (short, long)):
            if len(made) > 1:
                raise BadInput(f"extend: not possible with {name}, which makes {len(made)} members over a run's length")
        done = [
            [step for step in self.schedule.restarts(self.steps_per_epoch, length) if step < self.step]
            for length in (short, long)
        ]
        if done[0] != done[1]:
            raise BadInput(f"extend: not possible with {name}, whose longer run starts its weights anew at other steps")

    def in_words(self, rate: float) -> str:
        """What goes on and what does not, for the user.

        Args:
            rate: the configured learning rate.
        """
        old, new = (
            rate * self.schedule.factor(min(self.step, length - 1), self.steps_per_epoch, length)
            for length in (self.before, self.now)
        )
        moves = (
            f"stays at {new:.4g}" if new == old else f"{'rises' if new > old else 'falls'} from {old:.4g} to {new:.4g}"
        )
        epochs = [f"{length / self.steps_per_epoch:g}" for length in (self.now, self.before)]
        return (
            f"extended from {self.before} to {self.now} updates: {type(self.schedule).__name__} over {epochs[0]} "
            f"epochs instead of {epochs[1]}; the learning rate at step {self.step} {moves}, as if the run had been "
            "this long from the start. Weights, optimizer, order of samples and record go on; nothing starts anew"
        )

    def as_json(self) -> dict[str, Any]:
        """For the manifest and `environment.json`."""
        return {"step": self.step, "from": self.before, "to": self.now}


def refuse_without_set(folder: RunFolder) -> NoReturn:
    """Say why a folder without a checkpoint set cannot be extended. Raises `BadInput`."""
    if not folder.recipe.exists():
        raise BadInput(f"extend: {folder.path} holds no run; name the folder of one by --run")
    how = "a run keeps one where checkpoints.every_epochs or checkpoints.every_steps is above 0"
    raise BadInput(f"extend: {folder.path} keeps no checkpoint set to go on from; {how}")
