"""Scores of corrupted samples, calibrated by temperatures that were fitted on clean ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from dist_dash.errors import RunFailed
from dist_dash.metrics.accuracy import Floats, Labels
from dist_dash.metrics.calibration import fit_temperature
from dist_dash.metrics.summary import evaluate

CALIBRATED = ("nll", "brier", "ece", "ece_mass", "aac")


@dataclass(frozen=True)
class Temperatures:
    """Of the ensemble's probabilities and of each member's; None where there was nothing to fit them on."""

    ensemble: float | None
    members: list[float | None]

    @staticmethod
    def fitted(log_probs: Floats, labels: Labels) -> Temperatures:
        """Fit all of them by NLL on `[members, N, C]`, `[N]`."""
        if not len(labels):
            return Temperatures(None, [None] * len(log_probs))
        found = [fit_temperature(one, labels) for one in (_mean_of_members(log_probs), *log_probs)]
        return Temperatures(found[0], list(found[1:]))


def sick(log_probs: Floats) -> NDArray[np.bool_]:
    """Which members say something that is no number, `[members]`."""
    return np.asarray(np.isnan(log_probs).any((1, 2)))


def scored(log_probs: Floats, labels: Labels, temperatures: Temperatures, seed: int) -> dict[str, Any]:
    """An entry of `shift.json`: `ensemble members member_mean diversity samples left_out`, as in `evaluation.json`.

    The `cal_*` scores differ from those: temperatures are the given ones, fitted on clean samples. Members that do not
    predict numbers here are left out, and numbered in `left_out`.

    Raises:
        RunFailed: that leaves none.
    """
    ill = sick(log_probs)
    if ill.all():
        raise RunFailed("every member predicts NaN; there is nothing to evaluate")
    log_probs = log_probs[~ill].astype(np.float64)
    found = evaluate(log_probs, labels, "test", seed, calibrated=False)
    ensemble = _with_calibrated(found["ensemble"], _mean_of_members(log_probs), labels, temperatures.ensemble)
    given = zip(found["members"], log_probs, compress(temperatures.members, ~ill), strict=True)
    members = [_with_calibrated(own, member, labels, temperature) for own, member, temperature in given]
    return {
        "ensemble": ensemble,
        "members": members,
        "member_mean": averaged(members),
        "diversity": {name: value for name, value in found["diversity"].items() if name != "pairwise"},
        "samples": len(labels),
        "left_out": np.flatnonzero(ill).tolist(),
    }


def averaged(found: Sequence[Any]) -> Any:
    """The mean of numbers, or of dictionaries of them, name by name; None where one of them is."""
    first = found[0]
    if isinstance(first, dict):
        return {name: averaged([one[name] for one in found]) for name in first}
    return None if any(one is None for one in found) else float(np.mean(found))


def _with_calibrated(
    plain: dict[str, Any], log_probs: Floats, labels: Labels, temperature: float | None
) -> dict[str, Any]:
    """The scores of one predictor `[N, C]`, and those after temperature scaling as `cal_*`."""
    scaled: dict[str, Any] = {}
    if temperature is not None:
        softened = log_softmax(log_probs / temperature, axis=-1)
        scaled = evaluate(softened[None], labels, "test", None, calibrated=False)["ensemble"]
    calibrated = {f"cal_{name}": scaled.get(name) for name in CALIBRATED if name in plain}
    return {**plain, **calibrated, "temperature": temperature}


def _mean_of_members(log_probs: Floats) -> Floats:
    """Log of the mean of the members' probabilities, `[N, C]`."""
    return logsumexp(log_probs.astype(np.float64), axis=0) - np.log(len(log_probs))
