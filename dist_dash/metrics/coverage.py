"""Accuracy of the samples that a predictor is surest of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dist_dash.metrics.accuracy import Doubles, Floats, Labels


def coverage_accuracy(log_probs: Floats, labels: Labels) -> Doubles:
    """Accuracy of the k most confident samples, for k = 1 … N: `[N]`.

    Confidence is the largest log-probability. Samples of equal confidence each count with the accuracy of their tie
    group, so that the order of the samples does not matter (ALGORITHMS, section 7).
    """
    return accuracy_by_coverage(log_probs.max(1), log_probs.argmax(1) == labels)


def aac(log_probs: Floats, labels: Labels) -> float:
    """Area under the accuracy-coverage curve: `coverage_accuracy` averaged over all N coverages, exact for every N."""
    return float(np.mean(coverage_accuracy(log_probs, labels)))


def accuracy_by_coverage(confidence: Floats, correct: NDArray[np.bool_]) -> Doubles:
    """The same from each sample's confidence, on any scale, and whether it is right; both `[N]`."""
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(group, correct, len(sizes)) / sizes
    return np.cumsum(np.repeat(share, sizes)) / np.arange(1, len(confidence) + 1)
