"""Right or wrong, and how surprised: pure functions of log-probabilities `[N, C]` and labels `[N]`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]
LOWEST = float(np.log(np.finfo(np.float64).tiny))  # JSON has no ∞


def accuracy(log_probs: Floats, labels: Labels) -> float:
    """Share of samples whose most probable class is the label."""
    return float(np.mean(log_probs.argmax(1) == labels))


def top_k(log_probs: Floats, labels: Labels, k: int = 5) -> float:
    """Share of samples whose label is among the `k` most probable classes; ties count by the order of the classes."""
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, :k]
    return float(np.mean((order == labels[:, None]).any(1)))


def nll(log_probs: Floats, labels: Labels) -> float:
    """Negative log-likelihood: `−mean log p_y`, in nats; a probability of 0 counts as the smallest normal number."""
    return float(-np.mean(np.maximum(log_probs[np.arange(len(labels)), labels], LOWEST)))


def brier(log_probs: Floats, labels: Labels) -> float:
    """Brier score: `mean Σ_c (p_c − 1[y = c])²`, in [0, 2]."""
    probs = np.exp(log_probs)
    probs[np.arange(len(labels)), labels] -= 1
    return float(np.mean(np.sum(probs**2, axis=1)))
