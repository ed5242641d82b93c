"""An ensemble under every corruption and severity, and against OOD sets: the content of `shift.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.analysis.shift.corruptions import Corruption, corrupted, counted
from dist_dash.analysis.shift.ood import Uncertainties, judged, uncertainties
from dist_dash.analysis.shift.ood_sets import OodSet
from dist_dash.analysis.shift.published import Published, severities_from
from dist_dash.analysis.shift.samples import ChangedSplit, divided, made_to_fit, subset
from dist_dash.analysis.shift.scoring import Temperatures, averaged, finite_members, scored
from dist_dash.analysis.shift.values import Values
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import Split, SubsetSplit
from dist_dash.ensembles.ensemble import Ensemble
from dist_dash.ensembles.predictor import Predicted, predict_split
from dist_dash.errors import BadInput
from dist_dash.metrics.accuracy import Floats, Integers
from dist_dash.metrics.mixture import weights_of
from dist_dash.recipe.recipe import Loader

Advance = Callable[[str], None]
"""Takes the name of what is measured next."""


class Measurement:
    """An ensemble and its clean predictions, which all others are compared with.

    Args:
        ensemble: the members; those that are non-finite on clean samples are left out.
        data: as the run saw them.
        values: what stored values mean.
        samples: use so many test (and validation) samples; None for all.
        seed: chooses the samples and decides every corruption.
        loader: how samples are read; changes no figure.
        published: corrupted samples, in place of those that are made here.
        resize: whether published ones are made to fit.

    Raises:
        BadInput: the data do not fit the ensemble, or cannot be read.
        RunFailed: all members are non-finite.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        data: DataSet,
        values: Values,
        samples: int | None,
        seed: int,
        loader: Loader,
        published: Published | None = None,
        resize: bool = False,
    ) -> None:
        if ensemble.shape != data.shape:
            raise BadInput(f"x: shape {data.shape} is not allowed; samples must have the ensemble's, {ensemble.shape}")
        self.values, self.seed, self.loader = values, seed, loader
        self.samples, self.published, self.resize = samples, published, resize
        self.paired = published is None or published.follows(data.test)
        fitting, self.reported, source = divided(data, samples, seed, self.paired)
        held_out, clean = (self._predict(split, ensemble) for split in (fitting, self.reported))
        if not len(clean.labels):
            raise BadInput("data: no sample of the test split can be read; check that the data are still there")
        self.fitted_on = f"{len(held_out.labels)} {source}" if len(held_out.labels) else "no samples, hence none"
        self._kept = kept = finite_members(held_out.log_probs, clean.log_probs)
        self.left_out = [member for member in range(len(ensemble)) if member not in kept]
        self.weights = weights_of(kept, ensemble.weights)
        networks = [ensemble.networks[member] for member in kept]
        self.ensemble = Ensemble(networks, ensemble.outline, ensemble.class_names, self.weights)
        self.temperatures = Temperatures.fitted(held_out.log_probs[kept], held_out.labels, self.weights)
        self.remarks = self.temperatures.remarks(kept)
        self.clean = {**self._scored(clean.log_probs[kept], clean.labels), "left_out": self.left_out}
        # OOD detection has nothing that is fitted: all chosen test samples count.
        self.test, inside = self.reported, clean.log_probs
        if data.validation is None:
            self.test = SubsetSplit(data.test, np.concatenate([fitting.indices, self.reported.indices]))
            inside = np.concatenate([held_out.log_probs, inside], axis=1)
        self.inside = self._uncertainties(inside[kept])

    def under(self, corruption: Corruption, severity: int) -> dict[str, Any]:
        """The scores of the reported samples under a corruption."""
        found = self._predict(self._corrupted(corruption, severity), self.ensemble)
        if not len(found.labels):
            raise BadInput(f"data: no sample under {corruption.name} {severity} can be read")
        scores = self._scored(found.log_probs, found.labels)
        return {**scores, "left_out": self.left_out + [self._kept[place] for place in scores["left_out"]]}

    def against(self, other: OodSet) -> dict[str, Any]:
        """How well uncertainty separates the test samples from an OOD set."""
        found = self._predict(other.split, self.ensemble)
        if not len(found.labels):
            raise BadInput(f"ood: no sample of {other.name} can be read")
        return {"name": other.name, "text": other.text, **judged(self.inside, self._uncertainties(found.log_probs))}

    def _corrupted(self, corruption: Corruption, severity: int) -> Split:
        if self.published is None:
            change = partial(_corrupted, values=self.values, corruption=corruption, severity=severity, seed=self.seed)
            return ChangedSplit(self.reported, change)
        every = self.published.split(corruption.name, severity)
        paired = self.paired
        chosen = SubsetSplit(every, self.reported.indices) if paired else subset(every, self.samples, self.seed)
        return made_to_fit(chosen, self.reported.shape, self.resize, f"published: samples under {corruption.name}")

    def _predict(self, split: Split, ensemble: Ensemble) -> Predicted:
        found = predict_split(ensemble, split, self.loader)
        assert found is not None  # there are no other ranks
        return found

    def _scored(self, log_probs: Floats, labels: Integers) -> dict[str, Any]:
        return scored(log_probs, labels, self.temperatures, self.seed, self.weights)

    def _uncertainties(self, log_probs: Floats) -> list[Uncertainties]:
        """The ensemble's, then each member's own."""
        return [uncertainties(log_probs, self.weights), *(uncertainties(member[None]) for member in log_probs)]


def as_shift_json(
    measurement: Measurement,
    corruptions: Sequence[Corruption],
    severities: Sequence[int],
    sets: Sequence[OodSet],
    advance: Advance,
) -> dict[str, Any]:
    """Everything of a measurement, in the form of `shift.json`; severities are keys, hence text."""
    found: dict[str, dict[str, Any]] = {}
    for corruption in corruptions:
        found[corruption.name] = {}
        for severity in severities:
            advance(f"{corruption.name} {severity}")
            found[corruption.name][str(severity)] = measurement.under(corruption, severity)
    averaged_over = counted(list(found))
    by_severity = {
        str(severity): _mean_of([found[name][str(severity)] for name in averaged_over]) for severity in severities
    }
    detected = []
    for other in sets:
        advance(other.name)
        detected.append(measurement.against(other))
    return {
        "seed": measurement.seed,
        "split": "test",
        "samples": measurement.clean["samples"],
        "example": int(measurement.reported.indices[0]),
        "left_out": measurement.left_out,
        "fitted_on": measurement.fitted_on,
        "remarks": measurement.remarks,
        "values": measurement.values.as_json(),
        "corruptions": {corruption.name: corruption.text for corruption in corruptions},
        "averaged_over": averaged_over,
        "severities": list(severities),
        "severities_from": severities_from(measurement.published, measurement.reported.shape),
        "clean": measurement.clean,
        "corrupted": found,
        "mean": by_severity,
        "mean_corruption_error": {
            who: float(np.mean([1 - mean[who]["accuracy"] for mean in by_severity.values()]))
            for who in ("ensemble", "member_mean")
        },
        "ood": {"samples": len(measurement.inside[0]["entropy"]), "sets": detected},
    }


def _corrupted(
    sample: NDArray, index: int, values: Values, corruption: Corruption, severity: int, seed: int
) -> NDArray:
    return corrupted(sample, values, corruption, severity, seed, index)


def _mean_of(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {part: averaged([one[part] for one in found]) for part in ("ensemble", "member_mean", "diversity")}
