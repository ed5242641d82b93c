"""What pictures and pages read of a run: lines of its record as arrays, which members are scored, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.metrics.blocks import blocks_of
from dist_dash.metrics.mixture import ensemble_log_probs, non_finite_members, weights_of
from dist_dash.metrics.predictions import Predictions
from dist_dash.report.picture import NotHere

Array = NDArray[np.float64]
MOST_POINTS = 400


# -- the lines of metrics.jsonl ----------------------------------------------------------------------------------------


def numbers(values: Sequence[Any]) -> list[float]:
    """Numbers of a JSON list as floats; NaN for null and for everything that is no number."""
    return [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else float("nan") for v in values]


def per_member(lines: Sequence[Mapping[str, Any]], *names: str) -> tuple[Array, Array]:
    """Epochs `[lines]` and the values of one field `[lines, members]`, NaN where a number is missing.

    Args:
        lines: of one kind.
        names: the field, or the path to it.

    Returns:
        Lines that have the field for as many members as the last that has it at all; both are empty where none has.
    """
    found = [(line.get("epoch"), value) for line in lines if isinstance(value := _inner(line, names), list) and value]
    if not found:
        return np.empty(0), np.empty((0, 0))
    members = len(found[-1][1])
    kept = [(epoch, numbers(value)) for epoch, value in found if len(value) == members]
    return np.array(numbers([epoch for epoch, _ in kept])), np.array([values for _, values in kept])


def thinned(epochs: Array, values: Array, most: int = MOST_POINTS) -> tuple[Array, Array, int]:
    """Means over windows of equally many lines, so that at most `most` points are left.

    Args:
        epochs: `[lines]`.
        values: `[lines, members]`.
        most: points.

    Returns:
        Epochs and values of the windows, and lines per window; the last window may hold fewer. NaN spreads over its
        window: a gap is not averaged away.
    """
    window = max(1, -(-len(epochs) // most))
    starts = np.arange(0, len(epochs), window)
    if window == 1 or not len(starts):
        return epochs, values, window
    counts = np.diff(np.append(starts, len(epochs)))
    return np.add.reduceat(epochs, starts) / counts, np.add.reduceat(values, starts) / counts[:, None], window


def _inner(line: Mapping[str, Any], names: Sequence[str]) -> Any:
    value: Any = line
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


# -- members and their predictions -------------------------------------------------------------------------------------


def check_evaluation(run: FinishedRun) -> None:
    """Check that `evaluation.json` holds scores.

    Raises:
        BadInput: it holds something else than scores.
    """
    found = run.evaluation
    members, left_out = found.get("members"), found.get("left_out", [])
    scores = [found["ensemble"], found.get("member_mean"), *(members if isinstance(members, list) else [None])]
    if not members or not all(isinstance(one, dict) for one in scores) or not isinstance(left_out, list):
        raise BadInput(
            f"run: {run.folder.evaluation} holds something else than scores; `dist-dash evaluate {run.path}` makes them"
        )


def kept_members(run: FinishedRun) -> list[int]:
    """Numbers of the members that `evaluation.json` scores, in its order: all but those left out as not finite."""
    left_out = set(run.evaluation.get("left_out") or ())
    return [number for number in range(len(run.evaluation["members"]) + len(left_out)) if number not in left_out]


def finite_predictions(run: FinishedRun) -> tuple[list[int], Predictions]:
    """Numbers of the members that are not non-finite, and their predictions.

    Raises:
        NotHere: no member is left.
        BadInput: the run holds no predictions.
    """
    log_probs, labels, weights = run.predictions()
    non_finite = non_finite_members(log_probs)
    numbers = [number for number in range(len(log_probs)) if number not in non_finite]
    if not numbers or not len(labels):
        raise NotHere("No member has predictions that are numbers.")
    kept = log_probs if len(numbers) == len(log_probs) else log_probs[numbers]
    return numbers, Predictions(kept, labels, weights_of(numbers, weights))


def predictors(run: FinishedRun) -> tuple[dict[str, NDArray[np.floating]], NDArray[np.integer]]:
    """Log-probabilities `[N, C]` of the ensemble and of each member, by name, and labels `[N]`; raises as above.

    The ensemble of one member is that member: it stands there once.
    """
    numbers, (log_probs, labels, weights) = finite_predictions(run)
    found: dict[str, NDArray[np.floating]] = {"ensemble": np.empty(log_probs.shape[1:])}
    for rows in blocks_of(len(labels), log_probs.shape[2] * len(log_probs)):  # 8 × 50,000 × 1,000 are large enough once
        found["ensemble"][rows] = ensemble_log_probs(log_probs[:, rows], weights)
    if len(numbers) > 1:
        found |= {f"member {number}": member for number, member in zip(numbers, log_probs, strict=True)}
    return found, labels
