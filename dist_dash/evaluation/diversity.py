"""How members differ: pairwise matrices over log-probabilities `[members, N, C]`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dist_dash.evaluation.accuracy import LOWEST, Floats, Labels

Matrix = NDArray[np.float64]


def disagreement(log_probs: Floats) -> Matrix:
    """Share of samples on which two members choose different classes `[members, members]`."""
    choice = log_probs.argmax(-1)
    return (choice[:, None] != choice[None]).mean(-1)


def pairwise_kl(log_probs: Floats) -> Matrix:
    """`mean_N KL(p_i ‖ p_j)`, in nats `[members, members]`; not symmetric."""
    log_probs = np.maximum(log_probs, LOWEST)  # 0 · log 0 is 0, not NaN
    probs = np.exp(log_probs)
    own = np.einsum("inc,inc->i", probs, log_probs)
    cross = np.einsum("inc,jnc->ij", probs, log_probs)
    kl = (own[:, None] - cross) / log_probs.shape[1]
    np.fill_diagonal(kl, 0.0)
    return kl


def error_correlation(log_probs: Floats, labels: Labels) -> Matrix:
    """Correlation of two members' errors `[members, members]`; 0 where a member is always right or always wrong."""
    wrong = (log_probs.argmax(-1) != labels).astype(np.float64)
    centred = wrong - wrong.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).sum(1))
    scale = spread[:, None] * spread[None]
    return np.divide(centred @ centred.T, scale, out=np.zeros_like(scale), where=scale > 0)


def mean_of_pairs(matrix: Matrix) -> float | None:
    """The mean over all ordered pairs of different members; None where there is one member only."""
    members = len(matrix)
    if members < 2:
        return None
    return float((matrix.sum() - np.trace(matrix)) / (members * (members - 1)))
