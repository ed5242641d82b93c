"""Every score of one predictor, from what is known of each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_dash.metrics.accuracy import (
    LOWEST,
    Doubles,
    Floats,
    Labels,
    as_doubles,
    of_labels,
    ranks,
    squared_errors,
    squared_lengths,
)
from dist_dash.metrics.calibration import BINS, SPLITS, calibration_error, halves
from dist_dash.metrics.coverage import accuracy_by_coverage
from dist_dash.metrics.temperature import fitted

Scores = dict[str, float | None]

SPLITS_SEED = 0
"""Of the splits in halves: a constant, so that the scores of two runs with different seeds differ by the runs alone."""

_SCALED = ("nll", "brier", "ece", "ece_mass", "aac")


@dataclass(frozen=True)
class Samples:
    """What scores need to know of each sample; every array is `[N]`.

    Args:
        choice: the most probable class.
        correct: whether it is the label.
        top: its log-probability.
        own: the label's log-probability.
        squares: `Σ_c p_c²`.
        rank: how many classes come before the label; None where there are too few classes for a top 5.
    """

    choice: NDArray[np.intp]
    correct: NDArray[np.bool_]
    top: Doubles
    own: Doubles
    squares: Doubles
    rank: NDArray[np.int64] | None

    @staticmethod
    def seen(log_probs: Doubles, probs: Doubles, labels: Labels) -> Samples:
        """From log-probabilities and probabilities, `[N, C]` both, and labels `[N]`."""
        choice = log_probs.argmax(1)
        top, own = of_labels(log_probs, choice), of_labels(log_probs, labels)
        rank = ranks(log_probs, labels) if log_probs.shape[1] > 5 else None
        return Samples(choice, choice == labels, top, own, squared_lengths(probs), rank)

    @staticmethod
    def joined(parts: Sequence[Samples]) -> Samples:
        """Blocks of samples, put together."""
        ranked = [part.rank for part in parts if part.rank is not None]
        return Samples(
            np.concatenate([part.choice for part in parts]),
            np.concatenate([part.correct for part in parts]),
            np.concatenate([part.top for part in parts]),
            np.concatenate([part.own for part in parts]),
            np.concatenate([part.squares for part in parts]),
            np.concatenate(ranked) if ranked else None,
        )


def scores(log_probs: Floats, labels: Labels) -> Scores:
    """Every score of one predictor that needs no fit, from its log-probabilities `[N, C]` and labels `[N]`."""
    doubles = as_doubles(log_probs)
    return scores_of(Samples.seen(doubles, np.exp(doubles), labels))


def scores_of(samples: Samples) -> Scores:
    """`accuracy top5 nll brier ece ece_mass aac clipped`; `top5` only where there are more than five classes."""
    found: Scores = {"accuracy": float(np.mean(samples.correct))}
    if samples.rank is not None:
        found["top5"] = float(np.mean(samples.rank < 5))
    found |= _probabilistic(samples.correct, samples.top, samples.own, samples.squares)
    return {**found, "clipped": int(np.sum(samples.own < LOWEST))}


def calibrated_scores(log_probs: Floats, samples: Samples) -> Scores:
    """Scores after temperature scaling, `cal_nll cal_brier cal_ece cal_ece_mass cal_aac`, and the mean `temperature`.

    Each is the mean over ten halves: of 5 random splits, each half scaled by the temperature that was fitted on the
    other one (Ashukha et al. 2020, section 3). All None for a single sample, which cannot be split.

    Args:
        log_probs: `[N, C]`.
        samples: what is known of them.
    """
    if len(samples.own) < 2:
        return {**{f"cal_{name}": None for name in _SCALED}, "temperature": None}
    half = halves(len(samples.own), SPLITS, SPLITS_SEED)
    beta, partition = fitted(log_probs, samples.top, samples.own, half, 2)
    of_sample = np.take_along_axis(beta, 1 - half, 1)
    log_sums, log_square_sums = partition.logs(of_sample)
    with np.errstate(invalid="ignore"):
        own = of_sample * (samples.own - samples.top) - log_sums
    squares = np.exp(log_square_sums - 2 * log_sums)
    found = [
        _probabilistic(samples.correct[part], -log_sums[split, part], own[split, part], squares[split, part])
        for split in range(SPLITS)
        for part in (np.flatnonzero(half[split] == 0), np.flatnonzero(half[split] == 1))
    ]
    return {**{f"cal_{name}": mean_of(found, name) for name in _SCALED}, "temperature": float(np.mean(1 / beta))}


def mean_of(found: Sequence[Mapping[str, float | None]], name: str) -> float | None:
    """The mean of one score; None where one is missing."""
    values = [one[name] for one in found]
    return None if any(value is None for value in values) else float(np.mean(np.array(values, dtype=np.float64)))


def _probabilistic(correct: NDArray[np.bool_], top: Doubles, own: Doubles, squares: Doubles) -> Scores:
    confidence = np.exp(top)
    return {
        "nll": float(-np.mean(np.maximum(own, LOWEST))),
        "brier": float(np.mean(squared_errors(squares, own))),
        "ece": calibration_error(confidence, correct, BINS, equal_mass=False),
        "ece_mass": calibration_error(confidence, correct, BINS, equal_mass=True),
        "aac": float(np.mean(accuracy_by_coverage(top, correct))),
    }
