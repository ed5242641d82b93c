"""Scores of corrupted samples, calibrated by temperatures that were fitted on clean ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from dist_dash.errors import RunFailed
from dist_dash.metrics.accuracy import Doubles, Floats, Integers
from dist_dash.metrics.calibration import fit_temperature
from dist_dash.metrics.mixture import ensemble_log_probs, non_finite_members, weights_of
from dist_dash.metrics.summary import evaluate
from dist_dash.metrics.temperature import remark

CALIBRATED = ("nll", "brier", "ece", "ece_mass", "aac")


@dataclass(frozen=True)
class Temperatures:
    """Of the ensemble's probabilities and of each member's; None where there was nothing to fit them on."""

    ensemble: float | None
    members: list[float | None]

    @staticmethod
    def fitted(log_probs: Floats, labels: Integers, weights: Doubles | None = None) -> Temperatures:
        """Fit all of them by NLL on `[members, N, C]`, `[N]`; `weights` of the members add up to 1."""
        if not len(labels):
            return Temperatures(None, [None] * len(log_probs))
        found = [fit_temperature(one, labels) for one in (ensemble_log_probs(log_probs, weights), *log_probs)]
        return Temperatures(found[0], list(found[1:]))

    def remarks(self, names: Sequence[int]) -> list[str]:
        """Which of them sit on a bound, or were left at 1; `names`: numbers of the members."""
        whose = ["the ensemble", *(f"member {name}" for name in names)]
        fits = zip(whose, [self.ensemble, *self.members], strict=True)
        return [f"Temperature of {name}: {words}." for name, one in fits if one and (words := remark([one]))]


def finite_members(*log_probs: Floats) -> list[int]:
    """The members `[members, N, C]` that are non-finite in none of these predictions, ascending.

    Raises:
        RunFailed: there is none.
    """
    non_finite = set[int]().union(*map(non_finite_members, log_probs))
    kept = [member for member in range(len(log_probs[0])) if member not in non_finite]
    if not kept:
        raise RunFailed("every member predicts NaN; there is nothing to evaluate")
    return kept


def scored(
    log_probs: Floats, labels: Integers, temperatures: Temperatures, seed: int, weights: Doubles | None = None
) -> dict[str, Any]:
    """An entry of `shift.json`: `ensemble members member_mean diversity samples left_out`, as in `evaluation.json`.

    The `cal_*` scores differ from those: temperatures are the given ones, fitted on clean samples. Non-finite members
    are left out, and numbered in `left_out`.

    Raises:
        RunFailed: that leaves none.
    """
    kept = finite_members(log_probs)
    weights = weights_of(kept, weights)
    left_out = [member for member in range(len(log_probs)) if member not in kept]
    log_probs = log_probs[kept].astype(np.float64)
    found = evaluate(log_probs, labels, "test", seed, calibrated=False, weights=weights)
    mean = ensemble_log_probs(log_probs, weights)
    ensemble = _with_calibrated(found["ensemble"], mean, labels, temperatures.ensemble)
    given = zip(found["members"], log_probs, [temperatures.members[member] for member in kept], strict=True)
    members = [_with_calibrated(own, member, labels, temperature) for own, member, temperature in given]
    return {
        "ensemble": ensemble,
        "members": members,
        "member_mean": averaged(members),
        "diversity": {name: value for name, value in found["diversity"].items() if name != "pairwise"},
        "samples": len(labels),
        "left_out": left_out,
    }


def averaged(found: Sequence[Any]) -> Any:
    """The mean of numbers, or of dictionaries of them, name by name; None where one of them is."""
    first = found[0]
    if isinstance(first, dict):
        return {name: averaged([one[name] for one in found]) for name in first}
    return None if any(one is None for one in found) else float(np.mean(found))


def _with_calibrated(
    plain: dict[str, Any], log_probs: Floats, labels: Integers, temperature: float | None
) -> dict[str, Any]:
    """The scores of one predictor `[N, C]`, and those after temperature scaling as `cal_*`."""
    scaled: dict[str, Any] = {}
    if temperature is not None:
        softened = log_softmax(log_probs / temperature, axis=-1)
        scaled = evaluate(softened[None], labels, "test", None, calibrated=False)["ensemble"]
    calibrated = {f"cal_{name}": scaled.get(name) for name in CALIBRATED if name in plain}
    return {**plain, **calibrated, "temperature": temperature}
