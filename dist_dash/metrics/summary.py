"""Everything that is reported of an ensemble's predictions: the content of `evaluation.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dist_dash.errors import BadInput
from dist_dash.metrics.accuracy import Doubles, Floats, Integers
from dist_dash.metrics.diversity import Matrix, correlation_of, disagreement_of, kl_of, mean_of_pairs
from dist_dash.metrics.mixture import members_in_words, non_finite_members, normalised, weights_of
from dist_dash.metrics.scores import Measured, Scores, calibrated_scores, mean_of, measured, scores_of
from dist_dash.metrics.table import table
from dist_dash.metrics.temperature import remark

__all__ = ["evaluate", "table"]


def evaluate(
    log_probs: Floats,
    labels: Integers,
    split: str,
    seed: int | None,
    *,
    calibrated: bool = True,
    strict: bool = False,
    weights: ArrayLike | None = None,
    weight_cosines: Matrix | None = None,
) -> dict[str, Any]:
    """The content of `evaluation.json`.

    Non-finite members are left out, and numbered in `left_out`. Where the others count unequally, `weights` has their
    normalised weights, which the ensemble's scores and the gains of averaging go by; `member_mean` and means over pairs
    are plain means. Beside its input it holds the ensemble's log-probabilities in float64, and blocks of a few samples.

    Args:
        log_probs: `[members, N, C]`, of any floating-point type.
        labels: `[N]`.
        split: which split the samples are from.
        seed: of the run; None where unknown.
        calibrated: also score after temperature scaling, which takes longest.
        strict: refuse non-finite members.
        weights: one positive number per member; None where all count equally.
        weight_cosines: cosines between the members' weights `[members, members]`, where they are known.

    Raises:
        BadInput: shapes or weights do not fit, there is no sample, a label is no class, a member gives no distribution,
            or no member is left.
    """
    _check(log_probs, labels)
    shares = normalised(weights, len(log_probs))
    left_out = non_finite_members(log_probs)
    if left_out and (strict or len(left_out) == len(log_probs)):
        which = "of every member" if len(left_out) == len(log_probs) else f"of {members_in_words(left_out)}"
        raise BadInput(f"predictions: log_probs {which} are not finite; they must be logarithms of probabilities")
    kept = [member for member in range(len(log_probs)) if member not in left_out]
    shares = weights_of(kept, shares)
    found = measured(log_probs, labels, kept, shares)
    predictors = [found.ensemble, *found.members]
    every = [scores_of(samples) for samples in predictors]
    remarks: list[str | None] = []
    if calibrated:
        sources = [found.log_probs, *(log_probs[member] for member in kept)]
        scaled = list(map(calibrated_scores, sources, predictors))
        every = [{**plain, **others} for plain, (others, _) in zip(every, scaled, strict=True)]
        remarks = [remark(temperatures) for _, temperatures in scaled]
    ensemble, *members = every
    mean = {name: mean_of(members, name) for name in members[0]}
    cosines = None if weight_cosines is None else weight_cosines[np.ix_(kept, kept)]
    return {
        "ensemble": ensemble,
        "members": members,
        "member_mean": mean,
        "diversity": _diversity(found, every, shares, cosines),
        "split": split,
        "samples": len(labels),
        "seed": seed,
        "left_out": left_out,
        **({"temperature_remarks": {"ensemble": remarks[0], "members": remarks[1:]}} if any(remarks) else {}),
        **({} if shares is None else {"weights": shares.tolist()}),
    }


def _diversity(
    found: Measured, scores: Sequence[Scores], weights: Doubles | None, cosines: Matrix | None
) -> dict[str, Any]:
    """`scores`: of the ensemble, then of each member."""
    if cosines is not None and not np.isfinite(cosines).all():
        cosines = None
    pairs = {
        "disagreement": disagreement_of(np.stack([member.choice for member in found.members])),
        "kl": kl_of(found.cross),
        "error_correlation": correlation_of(~np.stack([member.correct for member in found.members])),
        **({} if cosines is None else {"weight_cosine": cosines}),
    }
    return {
        **{name: mean_of_pairs(matrix) for name, matrix in pairs.items()},
        "weight_cosine": None if cosines is None else mean_of_pairs(cosines),
        "ambiguity": _gain(scores, "nll", weights),
        "ambiguity_brier": _gain(scores, "brier", weights),
        # The entropies of the members are −Σ_c p_ic log p_ic.
        "mutual_information": max(found.entropy + float(np.average(np.diag(found.cross), weights=weights)), 0.0),
        "pairwise": {name: matrix.tolist() for name, matrix in pairs.items()},
    }


def _gain(scores: Sequence[Scores], loss: str, weights: Doubles | None) -> float:
    ensemble, *members = [float(one[loss] or 0.0) for one in scores]
    return float(np.average(members, weights=weights)) - ensemble


def _check(log_probs: Floats, labels: Integers) -> None:
    shape = log_probs.shape
    if not np.issubdtype(log_probs.dtype, np.floating):
        raise BadInput(f"predictions: log_probs hold {log_probs.dtype}; they must hold floating-point numbers")
    if len(shape) != 3 or 0 in shape or labels.shape != shape[1:2]:
        raise BadInput(f"predictions: log_probs {shape} and labels {labels.shape} must be [members, N, C] and [N]")
    if not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(f"predictions: labels hold {labels.dtype}; they must hold whole numbers in 0…{shape[2] - 1}")
    wrong = np.flatnonzero((labels < 0) | (labels >= shape[2]))
    if len(wrong):
        what = f"label {labels[wrong[0]]} of sample {wrong[0]}"
        raise BadInput(f"predictions: {what} is not allowed; it must be a whole number in 0…{shape[2] - 1}")
