"""Whether confidence can be believed."""

from __future__ import annotations

import numpy as np

from dist_dash.evaluation.accuracy import Floats, Labels


def ece(log_probs: Floats, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error over `bins` equal bins `(lo, hi]` of the confidence (Guo et al. 2017).

    `Σ_b n_b/N · |accuracy_b − mean confidence_b|`; confidence 1.0 lies in the last bin.
    """
    confidence = np.exp(log_probs.max(1))
    correct = log_probs.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    # The first inner edge that is not below the confidence closes its bin: (lo, hi].
    of = np.searchsorted(edges[1:-1], confidence, side="left")
    gaps = np.bincount(of, correct.astype(np.float64) - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))
