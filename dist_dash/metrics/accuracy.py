"""Scores of one predictor by their definitions: functions of log-probabilities `[N, C]` and labels `[N]`.

All of them compute in float64, whatever the dtype of the log-probabilities, and give the same for the same numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]
LOWEST = float(np.log(np.finfo(np.float64).tiny))
"""What the logarithm of a probability of 0 counts as, −708.4: that of float64's smallest normal number.

It is float64's for every input, so that finite log-probabilities, which may well lie below what float16 or float32 hold
as a probability, keep their values, and no sample scores better with a probability of 0 than with a positive one.
"""


def accuracy(log_probs: Floats, labels: Integers) -> float:
    """Share of samples whose most probable class is the label; of equally probable classes the first counts."""
    return float(np.mean(log_probs.argmax(1) == labels))


def top_k(log_probs: Floats, labels: Integers, k: int = 5) -> float:
    """Share of samples whose label is among the `k` most probable classes; ties count by the order of the classes."""
    return float(np.mean(ranks(log_probs, labels) < k))


def nll(log_probs: Floats, labels: Integers) -> float:
    """Negative log-likelihood: `−mean log p_y`, in nats; `log 0` counts as `LOWEST`."""
    return float(-np.mean(np.maximum(of_labels(log_probs, labels), LOWEST)))


def clipped(log_probs: Floats, labels: Integers) -> int:
    """Number of samples whose label got a probability of exactly 0 in float64: `nll` counts them as `LOWEST`."""
    return int(np.sum(of_labels(log_probs, labels) < LOWEST))


def brier(log_probs: Floats, labels: Integers) -> float:
    """Brier score: `mean Σ_c (p_c − 1[y = c])²`, in [0, 2]."""
    squares = squared_lengths(np.exp(as_doubles(log_probs)))
    return float(np.mean(squared_errors(squares, of_labels(log_probs, labels))))


# -- accuracy of the samples that a predictor is surest of -------------------------------------------------------------


def coverage_accuracy(log_probs: Floats, labels: Integers) -> Doubles:
    """Accuracy of the k most confident samples, for k = 1 … N: `[N]`.

    Confidence is the largest log-probability. Samples of equal confidence each count with the accuracy of their tie
    group, so that the order of the samples does not matter (ALGORITHMS, section 7).
    """
    return accuracy_by_coverage(log_probs.max(1), log_probs.argmax(1) == labels)


def aac(log_probs: Floats, labels: Integers) -> float:
    """Area under the accuracy-coverage curve: `coverage_accuracy` averaged over all N coverages, exact for every N."""
    return float(np.mean(coverage_accuracy(log_probs, labels)))


def accuracy_by_coverage(confidence: Floats, correct: NDArray[np.bool_]) -> Doubles:
    """The same from each sample's confidence, on any scale, and whether it is right; both `[N]`."""
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(group, correct, len(sizes)) / sizes
    return np.cumsum(np.repeat(share, sizes)) / np.arange(1, len(confidence) + 1)


# -- the same, sample by sample ----------------------------------------------------------------------------------------


def as_doubles(log_probs: Floats) -> Doubles:
    """In float64 and C order: sums over classes then depend neither on the memory order nor on other samples."""
    return np.ascontiguousarray(log_probs, dtype=np.float64)


def of_labels(log_probs: Floats, labels: Integers) -> Doubles:
    """The labels' log-probabilities `[N]`."""
    return log_probs[np.arange(len(labels)), labels].astype(np.float64)


def ranks(log_probs: Floats, labels: Integers) -> NDArray[np.int64]:
    """How many classes come before the label `[N]`: more probable ones, and as probable ones of lower index."""
    own = log_probs[np.arange(len(labels)), labels][:, None]
    before = np.count_nonzero(log_probs > own, axis=1)
    tied = np.flatnonzero(np.count_nonzero(log_probs == own, axis=1) > 1)
    lower = np.arange(log_probs.shape[1]) < labels[tied, None]
    before[tied] += np.count_nonzero((log_probs[tied] == own[tied]) & lower, axis=1)
    return before


def squared_lengths(probs: Doubles) -> Doubles:
    """`Σ_c p_c²` of each sample `[N]`."""
    return np.einsum("nc,nc->n", probs, probs)


def squared_errors(squares: Doubles, label_log_probs: Doubles) -> Doubles:
    """`Σ_c (p_c − 1[y = c])² = Σ_c p_c² − 2 p_y + 1` of each sample `[N]`, from `Σ_c p_c²` and `log p_y`."""
    return squares - 2 * np.exp(label_log_probs) + 1
