"""Which of its trials each method is reported with: the one with the best score on validation data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dist_dash.errors import BadInput
from dist_dash.study.study_plan import PlannedRun, StudyPlan


@dataclass(frozen=True)
class Trial:
    """One setting of one method under one condition, and its validation scores, one a selection seed."""

    fields: dict[str, Any]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean score over the seeds."""
        return fmean(self.scores)


class Choice:
    """Collects the scores of trials and chooses each method's settings.

    Args:
        plan: the study.
        folder: of the study.
    """

    def __init__(self, plan: StudyPlan, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._scores: dict[str, float] = {}

    def score(self, run: PlannedRun) -> None:
        """Take the score of a finished trial: of its ensemble, on the validation split."""
        from dist_dash.analysis.evaluate import evaluate_run  # torch, which commands that only plan do without

        scores = evaluate_run(self._folder / run.name, split=self._plan.selection.split)["ensemble"]
        found = scores.get(self._plan.selection.score)
        if found is None:
            raise BadInput(f"selection.score: {self._plan.selection.score} does not exist for run {run.name}")
        self._scores[run.name] = found

    def trials(self, condition: str, method: str) -> list[Trial]:
        """All trials of a method under a condition, with their scores."""
        seeds, settings = self._plan.selection.seeds, self._plan.methods[method].trials
        names = [[self._plan.trial_name(condition, method, n, seed) for seed in seeds] for n in range(len(settings))]
        return [Trial(f, tuple(self._scores[one] for one in of)) for f, of in zip(settings, names, strict=True)]

    def chosen(self) -> dict[tuple[str, str], int]:
        """Number of the best trial by condition and method; of equally good ones the first. NaN never wins."""
        found = {}
        for condition in self._plan.conditions:
            for method in self._plan.methods:
                means = [self._plan.selection.better(trial.mean) for trial in self.trials(condition, method)]
                found[condition, method] = min(range(len(means)), key=lambda n: (math.isnan(means[n]), means[n], n))
        return found

    def as_json(self) -> dict[str, Any]:
        """`selection.json`: every trial with its scores, and which was chosen."""
        chosen = self.chosen()
        methods = {
            condition: {
                method: {
                    "chosen": chosen[condition, method],
                    "trials": [
                        {"fields": trial.fields, "scores": list(trial.scores), "mean": trial.mean}
                        for trial in self.trials(condition, method)
                    ],
                }
                for method in self._plan.methods
            }
            for condition in self._plan.conditions
        }
        rule = {"score": self._plan.selection.score, "split": self._plan.selection.split}
        return {**rule, "seeds": list(self._plan.selection.seeds), "conditions": methods}
