"""Detection of out-of-distribution (OOD) samples: scores of single samples, and how well they tell two sets apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from dist_dash.metrics.accuracy import Doubles
from dist_dash.metrics.mixture import ensemble_log_probs, entropy, mutual_information, variance

Uncertainties = dict[str, Doubles]

ALONE = ("entropy", "max_probability")
"""Scores that one member alone has, too."""
TEXTS = {
    "entropy": "entropy of the mean probabilities, in nats",
    "max_probability": "1 − the largest mean probability",
    "mutual_information": "entropy of the mean − mean entropy of the members, in nats",
    "variance": "variance of the members' probabilities, summed over classes",
}
_RECALL = 0.95
_ROC_POINTS = 200
_BINS = 30


def uncertainties(log_probs: NDArray[np.floating], weights: Doubles | None = None) -> Uncertainties:
    """Scores that rise with uncertainty, from members' log-probabilities `[members, N, C]`; each `[N]`, ≥ 0.

    `entropy`: `H(p̄) = −Σ_c p̄_c log p̄_c` of the mean `p̄` of the members' probabilities. `max_probability`:
    `1 − max_c p̄_c` (Hendrycks & Gimpel 2017). With two members or more also `mutual_information`, between prediction
    and member: `H(p̄) − mean_m H(p_m)`, and `variance`: `Σ_c mean_m (p_mc − p̄_c)²`. All means over members are weighted
    where `weights`, which add up to 1, are given.
    """
    mean = ensemble_log_probs(log_probs, weights)
    found = {"entropy": entropy(mean), "max_probability": 1 - np.exp(mean.max(-1))}
    if len(log_probs) > 1:
        found["mutual_information"] = mutual_information(log_probs, weights)
        found["variance"] = variance(log_probs, weights)
    return found


def detection(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> dict[str, float]:
    """How well a score tells samples of the data `[N]` from OOD samples `[M]`, where OOD samples should score higher.

    `auroc`: area under the ROC curve: `P(outside > inside) + ½ P(equal)`. `aupr_out`, `aupr_in`: average precision with
    OOD samples, or samples of the data, as the positive class; by chance their share of both. `fpr95`: as in Liang et
    al. (ICLR 2018), the share of OOD samples that pass for the data at the threshold at which at least 95 % of the
    data's samples do (true positives are samples of the data).
    """
    is_outside = np.repeat([0, 1], [len(inside), len(outside)])
    score = np.concatenate([inside, outside]).astype(np.float64)
    false_positives, true_positives, _ = roc_curve(1 - is_outside, -score, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(is_outside, score)),
        "aupr_out": float(average_precision_score(is_outside, score)),
        "aupr_in": float(average_precision_score(1 - is_outside, -score)),
        "fpr95": float(false_positives[true_positives >= _RECALL].min()),
    }


def judged(inside: Sequence[Uncertainties], outside: Sequence[Uncertainties]) -> dict[str, Any]:
    """The entry of one OOD set in `shift.json`, from scores of the ensemble, followed by those of each member alone.

    What one member cannot have (mutual information, variance) is null.
    """
    first, second = inside[0], outside[0]
    members = list(zip(inside[1:], outside[1:], strict=True))
    return {
        "samples": len(second["entropy"]),
        "ensemble": {name: detection(first[name], second[name]) if name in first else None for name in TEXTS},
        "member_mean": {name: _mean([detection(i[name], o[name]) for i, o in members]) for name in ALONE},
        "histograms": {name: _histogram(first[name], second[name]) for name in first},
        "roc": {name: _roc(first[name], second[name]) for name in first},
    }


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _histogram(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> dict[str, list[float]]:
    """Shares of both sets per bin, between the smallest and the largest score of both."""
    edges = np.histogram_bin_edges(np.concatenate([inside, outside]), _BINS)
    shares = {name: np.histogram(x, edges)[0] / len(x) for name, x in (("in", inside), ("out", outside))}
    return {"edges": edges.tolist(), **{name: share.tolist() for name, share in shares.items()}}


def _roc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> dict[str, list[float]]:
    """The ROC curve with OOD samples as positives; of long curves 200 points."""
    is_outside = np.repeat([0, 1], [len(inside), len(outside)])
    fpr, tpr, _ = roc_curve(is_outside, np.concatenate([inside, outside]))
    kept = np.unique(np.linspace(0, len(fpr) - 1, min(len(fpr), _ROC_POINTS)).round().astype(int))
    return {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist()}
