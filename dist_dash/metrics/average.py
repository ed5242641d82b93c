"""An ensemble's prediction: the mean of its members' probabilities."""

from __future__ import annotations

import numpy as np

from dist_dash.metrics.accuracy import Doubles, Floats, as_doubles

_SMALL = 1e-280  # below it a mean of probabilities may have lost digits to underflow


def ensemble_log_probs(log_probs: Floats) -> Floats:
    """Log of the mean of the members' softmaxes: `[members, N, C]` → `[N, C]`, in float64."""
    doubles = as_doubles(log_probs)
    return log_of_mean(np.exp(doubles), doubles)


def log_of_mean(probs: Doubles, log_probs: Doubles) -> Doubles:
    """The same where both the probabilities and their logarithms, `[members, N, C]`, are there already."""
    if len(probs) == 1:
        return log_probs[0].copy()
    mean = probs.mean(0)
    with np.errstate(divide="ignore"):
        found: Doubles = np.log(mean)
    if (lost := mean < _SMALL).any():
        found[lost] = np.logaddexp.reduce(log_probs[:, lost], axis=0) - np.log(len(log_probs))
    return found
