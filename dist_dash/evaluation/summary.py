"""Everything that is reported of an ensemble's predictions: the content of `evaluation.json`, and its table."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from dist_dash.errors import BadInput
from dist_dash.evaluation.accuracy import Floats, Labels, accuracy, brier, nll, top_k
from dist_dash.evaluation.calibration import ece
from dist_dash.evaluation.diversity import disagreement, error_correlation, mean_of_pairs, pairwise_kl

Scores = dict[str, float]


def ensemble_log_probs(log_probs: Floats) -> Floats:
    """Log of the mean of the members' softmaxes: `[members, N, C]` → `[N, C]`."""
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))


def scores(log_probs: Floats, labels: Labels) -> Scores:
    """Every score of one predictor, from its log-probabilities `[N, C]`."""
    found = {
        "accuracy": accuracy(log_probs, labels),
        "nll": nll(log_probs, labels),
        "brier": brier(log_probs, labels),
        "ece": ece(log_probs, labels),
    }
    if log_probs.shape[1] > 5:
        found["top5"] = top_k(log_probs, labels, 5)
    return found


def evaluate(log_probs: Floats, labels: Labels, split: str, seed: int | None) -> dict[str, Any]:
    """The content of `evaluation.json`.

    Args:
        log_probs: `[members, N, C]`.
        labels: `[N]`.
        split: which split the samples are from.
        seed: of the run; None where unknown.

    Raises:
        BadInput: shapes do not fit, there is no sample, a label is no class, or a member gives no distribution.
    """
    _check(log_probs, labels)
    log_probs = log_probs.astype(np.float64)
    members = [scores(member, labels) for member in log_probs]
    pairs = {
        "disagreement": disagreement(log_probs),
        "kl": pairwise_kl(log_probs),
        "error_correlation": error_correlation(log_probs, labels),
    }
    return {
        "ensemble": scores(ensemble_log_probs(log_probs), labels),
        "members": members,
        "member_mean": {name: float(np.mean([m[name] for m in members])) for name in members[0]},
        "diversity": {
            **{name: mean_of_pairs(matrix) for name, matrix in pairs.items()},
            "pairwise": {name: matrix.tolist() for name, matrix in pairs.items()},
        },
        "split": split,
        "samples": len(labels),
        "seed": seed,
    }


def _check(log_probs: Floats, labels: Labels) -> None:
    shape = log_probs.shape
    if not np.issubdtype(log_probs.dtype, np.floating):
        raise BadInput(f"predictions: log_probs hold {log_probs.dtype}; they must hold floating-point numbers")
    if len(shape) != 3 or not shape[0] or labels.shape != shape[1:2] or not len(labels):
        raise BadInput(f"predictions: log_probs {shape} and labels {labels.shape} must be [members, N, C] and [N]")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= shape[2]:
        raise BadInput(f"predictions: labels must be whole numbers in 0…{shape[2] - 1}")
    for member, total in enumerate(np.exp(log_probs.astype(np.float64)).sum(-1)):
        if not np.allclose(total, 1, atol=1e-3):
            raise BadInput(
                f"predictions: log_probs of member {member} must be logarithms of probabilities that add up to 1"
            )


def table(evaluation: dict[str, Any]) -> Table:
    """The table that a run ends with: each member, their mean, the ensemble."""
    columns = [("accuracy", "accuracy", "{:.2%}"), ("nll", "NLL", "{:.4f}"), ("brier", "Brier", "{:.4f}")]
    columns += [("ece", "ECE", "{:.4f}")]
    pairwise = np.array(evaluation["diversity"]["pairwise"]["disagreement"])
    others = max(1, len(pairwise) - 1)
    result = Table(title=f"{evaluation['split']} split, {evaluation['samples']} samples", title_justify="left")
    result.add_column("")
    for _, title, _ in columns:
        result.add_column(title, justify="right")
    result.add_column("disagreement", justify="right")

    def row(name: str, found: Scores, differs: float | None) -> None:
        last = "" if differs is None else f"{differs:.2%}"
        result.add_row(name, *(form.format(found[key]) for key, _, form in columns), last)

    for index, found in enumerate(evaluation["members"]):
        row(f"member {index}", found, float(pairwise[index].sum() / others) if len(pairwise) > 1 else None)
    result.add_section()
    row("member mean", evaluation["member_mean"], evaluation["diversity"]["disagreement"])
    row("ensemble", evaluation["ensemble"], None)
    return result
