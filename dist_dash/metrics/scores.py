"""Every score of the members and of their ensemble, from one pass over all predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_dash.errors import BadInput
from dist_dash.metrics.accuracy import (
    LOWEST,
    Doubles,
    Floats,
    Integers,
    accuracy_by_coverage,
    as_doubles,
    of_labels,
    ranks,
    squared_errors,
    squared_lengths,
)
from dist_dash.metrics.blocks import blocks_of, in_blocks
from dist_dash.metrics.calibration import BINS, SPLITS, calibration_error, halves
from dist_dash.metrics.diversity import Matrix, cross_terms
from dist_dash.metrics.mixture import entropy_of, log_of_mean
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
    def seen(log_probs: Doubles, probs: Doubles, labels: Integers) -> Samples:
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


def scores(log_probs: Floats, labels: Integers) -> Scores:
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


def calibrated_scores(log_probs: Floats, samples: Samples) -> tuple[Scores, list[float]]:
    """Scores after temperature scaling, and the temperatures.

    The scores are `cal_nll cal_brier cal_ece cal_ece_mass cal_aac` and the mean `temperature`.

    Each is the mean over ten halves: of 5 random splits, each half scaled by the temperature that was fitted on the
    other one (Ashukha et al. 2020, section 3). All None for a single sample, which cannot be split.

    Args:
        log_probs: `[N, C]`.
        samples: what is known of them.
    """
    if len(samples.own) < 2:
        return {**{f"cal_{name}": None for name in _SCALED}, "temperature": None}, []
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
    scaled = {f"cal_{name}": mean_of(found, name) for name in _SCALED}
    return {**scaled, "temperature": float(np.mean(1 / beta))}, np.ravel(1 / beta).tolist()


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


# -- the pass over all predictions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What the pass finds.

    Args:
        members: per member.
        ensemble: of their mean.
        log_probs: the ensemble's log-probabilities `[N, C]`.
        cross: means over the samples of `Σ_c p_ic log p_jc` `[members, members]`.
        entropy: of the ensemble, mean over the samples, in nats.
    """

    members: list[Samples]
    ensemble: Samples
    log_probs: Doubles
    cross: Matrix
    entropy: float


def measured(log_probs: Floats, labels: Integers, kept: Sequence[int], weights: Doubles | None = None) -> Measured:
    """Go over the predictions of the members that are kept.

    Args:
        log_probs: `[members, N, C]`; never copied as a whole.
        labels: `[N]`.
        kept: members, ascending; none of them is non-finite.
        weights: of those members, adding up to 1; None for equal ones.

    Raises:
        BadInput: the probabilities of a sample do not add up to 1.
    """
    _, samples, classes = log_probs.shape
    width = len(kept) * classes
    count = len(blocks_of(samples, width))
    parts: list[list[Samples]] = [[] for _ in range(count)]
    cross, entropy = np.empty((count, len(kept), len(kept))), np.empty(samples)
    totals, ensemble = np.empty((len(kept), samples)), np.empty((samples, classes))

    def work(number: int, rows: slice) -> None:
        block = as_doubles(np.stack([log_probs[member, rows] for member in kept]))
        with np.errstate(over="ignore"):
            probs = np.exp(block)
        totals[:, rows] = probs.sum(-1)
        if not np.isfinite(totals[:, rows]).all():
            return  # refused below
        mean = log_of_mean(probs, block, weights)
        ensemble[rows], mean_probs = mean, np.exp(mean)
        each = [Samples.seen(*pair, labels[rows]) for pair in zip(block, probs, strict=True)]
        parts[number] = [*each, Samples.seen(mean, mean_probs, labels[rows])]
        cross[number] = cross_terms(probs, block)
        entropy[rows] = entropy_of(mean_probs, mean)

    in_blocks(samples, width, work)
    _check_totals(totals, kept, 1e-3 + np.finfo(log_probs.dtype).eps * np.log(classes))
    *members, own = (Samples.joined(column) for column in zip(*parts, strict=True))
    return Measured(members, own, ensemble, cross.sum(0) / samples, float(entropy.mean()))


def _check_totals(totals: Doubles, kept: Sequence[int], tolerance: float) -> None:
    """Rounding log-probabilities to the input's type moves their sum by up to `eps / 2 · entropy ≤ eps · log C`."""
    wrong = ~(np.abs(totals - 1) <= tolerance)
    if wrong.any():
        row, sample = map(int, np.argwhere(wrong)[0])
        raise BadInput(
            f"predictions: log_probs of member {kept[row]}, sample {sample} are logarithms of probabilities that add "
            f"up to {totals[row, sample]:.6g}; they must add up to 1"
        )
