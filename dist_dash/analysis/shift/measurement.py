"""An ensemble under every corruption and severity, and against OOD sets: the content of `shift.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.analysis.shift.corruptions import Corruption, corrupted
from dist_dash.analysis.shift.ood import Scores, judged, uncertainties
from dist_dash.analysis.shift.ood_sets import OodSet
from dist_dash.analysis.shift.samples import ChangedSplit, Reading, divided, predicted, predictions
from dist_dash.analysis.shift.scoring import Temperatures, averaged, scored, sick
from dist_dash.analysis.shift.values import Values
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import SubsetSplit
from dist_dash.ensembles.ensemble import Ensemble
from dist_dash.errors import BadInput, RunFailed

Advance = Callable[[str], None]
"""Told what is measured next."""


class Study:
    """An ensemble and its clean predictions: what all others are compared with.

    Args:
        ensemble: the members; those whose predictions of clean samples are not numbers are left out.
        data: as the run saw them.
        values: what stored values mean.
        samples: use so many test (and validation) samples; None for all.
        seed: chooses the samples and decides every corruption.
        reading: how samples are read.

    Raises:
        BadInput: the data do not fit the ensemble, or cannot be read.
        RunFailed: no member's predictions are numbers.
    """

    def __init__(
        self, ensemble: Ensemble, data: DataSet, values: Values, samples: int | None, seed: int, reading: Reading
    ) -> None:
        self.values, self.seed, self.reading = values, seed, reading
        fitting, self.reported, source = divided(data, samples, seed)
        held_out, held_out_labels = predicted(ensemble, fitting, reading)
        clean, labels = predicted(ensemble, self.reported, reading)
        if not len(labels):
            raise BadInput("data: no sample of the test split can be read; check that the data are still there")
        self.fitted_on = f"{len(held_out_labels)} {source}" if len(held_out_labels) else "no samples, hence none"
        ill = sick(held_out) | sick(clean)
        if ill.all():
            raise RunFailed("every member predicts NaN; there is nothing to evaluate")
        self.left_out: list[int] = np.flatnonzero(ill).tolist()
        self._healthy: list[int] = np.flatnonzero(~ill).tolist()
        healthy = [ensemble.networks[member] for member in self._healthy]
        self.ensemble = Ensemble(healthy, ensemble.shape, ensemble.classes, ensemble.class_names)
        self.temperatures = Temperatures.fitted(held_out[~ill], held_out_labels)
        self.clean = {**scored(clean[~ill], labels, self.temperatures, seed), "left_out": self.left_out}
        # OOD detection has nothing that is fitted: all chosen test samples count.
        self.test, inside = self.reported, clean
        if data.validation is None:
            self.test = SubsetSplit(data.test, np.concatenate([fitting.indices, self.reported.indices]))
            inside = np.concatenate([held_out, clean], axis=1)
        self.inside = _all_scores(inside[~ill])

    def under(self, corruption: Corruption, severity: int) -> dict[str, Any]:
        """The scores of the reported samples under a corruption."""
        change = partial(_corrupted, values=self.values, corruption=corruption, severity=severity, seed=self.seed)
        log_probs, labels = predicted(self.ensemble, ChangedSplit(self.reported, change), self.reading)
        found = scored(log_probs, labels, self.temperatures, self.seed)
        return {**found, "left_out": self.left_out + [self._healthy[place] for place in found["left_out"]]}

    def against(self, other: OodSet) -> dict[str, Any]:
        """How well uncertainty tells the test samples from an OOD set."""
        parts = [_all_scores(log_probs) for log_probs, _ in predictions(self.ensemble, other.split, self.reading)]
        if not parts:
            raise BadInput(f"ood: no sample of {other.name} can be read")
        outside = [
            {name: np.concatenate([scores[name] for scores in own]) for name in own[0]}
            for own in zip(*parts, strict=True)
        ]
        return {"name": other.name, "text": other.text, **judged(self.inside, outside)}


def measured(
    study: Study, corruptions: Sequence[Corruption], severities: Sequence[int], sets: Sequence[OodSet], advance: Advance
) -> dict[str, Any]:
    """Everything of a study, in the form of `shift.json`; severities are keys, hence text."""
    found: dict[str, dict[str, Any]] = {}
    for corruption in corruptions:
        found[corruption.name] = {}
        for severity in severities:
            advance(f"{corruption.name} {severity}")
            found[corruption.name][str(severity)] = study.under(corruption, severity)
    by_severity = {str(severity): _mean_of([own[str(severity)] for own in found.values()]) for severity in severities}
    detected = []
    for other in sets:
        advance(other.name)
        detected.append(study.against(other))
    return {
        "seed": study.seed,
        "split": "test",
        "samples": study.clean["samples"],
        "example": int(study.reported.indices[0]),
        "left_out": study.left_out,
        "fitted_on": study.fitted_on,
        "values": study.values.as_json(),
        "corruptions": {corruption.name: corruption.text for corruption in corruptions},
        "severities": list(severities),
        "clean": study.clean,
        "corrupted": found,
        "mean": by_severity,
        "mean_corruption_error": {
            who: float(np.mean([1 - mean[who]["accuracy"] for mean in by_severity.values()]))
            for who in ("ensemble", "member_mean")
        },
        "ood": {"samples": len(study.inside[0]["entropy"]), "sets": detected},
    }


def _corrupted(
    sample: NDArray, index: int, values: Values, corruption: Corruption, severity: int, seed: int
) -> NDArray:
    return corrupted(sample, values, corruption, severity, seed, index)


def _mean_of(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {part: averaged([one[part] for one in found]) for part in ("ensemble", "member_mean", "diversity")}


def _all_scores(log_probs: NDArray[np.floating]) -> list[Scores]:
    """The ensemble's, then each member's own."""
    return [uncertainties(log_probs), *(uncertainties(member[None]) for member in log_probs)]
