"""How pairs of members differ: log-probabilities `[members, N, C]` → matrices `[members, members]`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dist_dash.metrics.accuracy import LOWEST, Doubles, Floats, Integers, as_doubles
from dist_dash.metrics.blocks import blocks_of

Matrix = NDArray[np.float64]


def disagreement(log_probs: Floats) -> Matrix:
    """Share of samples on which two members choose different classes."""
    return disagreement_of(log_probs.argmax(-1))


def disagreement_of(choice: NDArray[np.integer]) -> Matrix:
    """The same from the classes that members choose `[members, N]`."""
    return np.stack([(choice != own).mean(1) for own in choice])


def pairwise_kl(log_probs: Floats) -> Matrix:
    """`mean_N KL(p_i ‖ p_j)`, in nats; not symmetric. Logarithms below `LOWEST` count as that."""
    members, samples, classes = log_probs.shape
    blocks = blocks_of(samples, members * classes)
    parts = [cross_terms(np.exp(block), block) for block in (as_doubles(log_probs[:, rows]) for rows in blocks)]
    return kl_of(np.sum(parts, axis=0) / samples)


def cross_terms(probs: Doubles, log_probs: Doubles) -> Matrix:
    """`Σ_N Σ_c p_ic log p_jc` of samples `[members, N, C]`."""
    bounded = np.maximum(log_probs, LOWEST)  # 0 · log 0 is 0, not NaN
    return np.matmul(probs.transpose(1, 0, 2), bounded.transpose(1, 2, 0)).sum(0)


def kl_of(cross: Matrix) -> Matrix:
    """KL divergences from means of `Σ_c p_ic log p_jc`."""
    kl = np.diag(cross)[:, None] - cross
    np.fill_diagonal(kl, 0.0)
    return kl


def error_correlation(log_probs: Floats, labels: Integers) -> Matrix:
    """Correlation of two members' errors; 0 where a member is always right or always wrong."""
    return correlation_of(log_probs.argmax(-1) != labels)


def correlation_of(wrong: NDArray[np.bool_]) -> Matrix:
    """The same from whether members are wrong `[members, N]`."""
    centred = wrong - wrong.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).sum(1))
    scale = spread[:, None] * spread[None]
    found = np.divide(centred @ centred.T, scale, out=np.zeros_like(scale), where=scale > 0)
    np.fill_diagonal(found, np.where(spread > 0, 1.0, 0.0))
    return found


def mean_of_pairs(matrix: Matrix) -> float | None:
    """The mean over all ordered pairs of different members; None where there is one member only."""
    members = len(matrix)
    if members < 2:
        return None
    return float((matrix.sum() - np.trace(matrix)) / (members * (members - 1)))
