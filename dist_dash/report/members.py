"""Which members a run's scores are of, and their predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.metrics.blocks import blocks_of
from dist_dash.metrics.mixture import ensemble_log_probs, non_finite_members, weights_of
from dist_dash.metrics.predictions import Predictions
from dist_dash.report.picture import NotHere


def check_evaluation(run: FinishedRun) -> None:
    """Refuse an `evaluation.json` that is none.

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
