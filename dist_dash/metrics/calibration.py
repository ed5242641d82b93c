"""Whether confidence can be believed, before and after temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_dash.errors import require
from dist_dash.metrics.accuracy import Doubles, Floats, Integers, as_doubles, of_labels
from dist_dash.metrics.temperature import fitted

BINS = 15
SPLITS = 5


# -- in bins of the confidence -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: one entry per bin of the confidence, each array `[bins]`.

    Args:
        lower: confidence above which the bin begins; 0 belongs to the first one.
        upper: the largest that belongs to it.
        count: its samples.
        confidence: their mean confidence; NaN where there are none.
        accuracy: the share of them that is right; NaN where there are none.
    """

    lower: Doubles
    upper: Doubles
    count: NDArray[np.intp]
    confidence: Doubles
    accuracy: Doubles


def reliability(log_probs: Floats, labels: Integers, bins: int = BINS, equal_mass: bool = False) -> Reliability:
    """Mean confidence and accuracy in bins of the confidence, the largest probability.

    Args:
        log_probs: `[N, C]`.
        labels: `[N]`.
        bins: how many.
        equal_mass: bins `(lo, hi]` of N / `bins` samples instead of equal width; samples of equal confidence stay in
            one bin, so that the order of the samples does not matter.
    """
    confidence = np.exp(log_probs.max(1).astype(np.float64))
    correct = log_probs.argmax(1) == labels
    edges = edges_of(confidence, bins, equal_mass)
    count, gap = _binned(confidence, correct, edges)
    some = np.where(count > 0, count, np.nan)
    right = np.bincount(_bin_of(confidence, edges), correct, bins)
    return Reliability(edges[:-1], edges[1:], count, (right - gap) / some, right / some)


def ece(log_probs: Floats, labels: Integers, bins: int = BINS, equal_mass: bool = False) -> float:
    """Expected calibration error: `Σ_b n_b/N · |accuracy_b − mean confidence_b|` (Guo et al. 2017, eq. 3).

    Bins as in `reliability`: equal ones `(lo, hi]`, confidence 1.0 in the last; or of equal mass (Nixon et al. 2019).
    """
    return calibration_error(
        np.exp(log_probs.max(1).astype(np.float64)), log_probs.argmax(1) == labels, bins, equal_mass
    )


def calibration_error(confidence: Doubles, correct: NDArray[np.bool_], bins: int, equal_mass: bool) -> float:
    """The same from each sample's confidence and whether it is right, both `[N]`."""
    _, gap = _binned(confidence, correct, edges_of(confidence, bins, equal_mass))
    return float(np.abs(gap).sum() / len(confidence))


def edges_of(confidence: Doubles, bins: int, equal_mass: bool) -> Doubles:
    """The bounds of the bins, ascending from 0 to 1: `[bins + 1]`."""
    if not equal_mass:
        return np.linspace(0, 1, bins + 1)
    # The last sample of bin b is number ⌈b N / bins⌉ in the order of confidence.
    last = -(-np.arange(1, bins) * len(confidence) // bins) - 1
    return np.concatenate([[0.0], np.sort(confidence)[last], [1.0]])


def _binned(confidence: Doubles, correct: NDArray[np.bool_], edges: Doubles) -> tuple[NDArray[np.intp], Doubles]:
    """Per bin: how many samples, and how many of them are right less the sum of their confidences."""
    of, bins = _bin_of(confidence, edges), len(edges) - 1
    gaps = np.bincount(of, correct.astype(np.float64) - confidence, bins)
    return np.bincount(of, minlength=bins), gaps.astype(np.float64, copy=False)


def _bin_of(confidence: Doubles, edges: Doubles) -> NDArray[np.intp]:
    # The first inner edge that is not below the confidence closes its bin: (lo, hi].
    return np.searchsorted(edges[1:-1], confidence, side="left")


# -- temperature scaling -----------------------------------------------------------------------------------------------


def fit_temperature(log_probs: Floats, labels: Integers) -> float:
    """The temperature in [0.05, 20] at which `softmax(log p / T)` has the least NLL.

    1 where none is better, and where it would be less than 1 on too little evidence (`temperature.INFORMATION`).

    Args:
        log_probs: `[N, C]`.
        labels: `[N]`.

    Raises:
        BadInput: there is no sample.
    """
    require(len(labels) > 0, "samples", 0, "1 or more, to fit a temperature on")
    top, own = log_probs.max(1).astype(np.float64), of_labels(log_probs, labels)
    beta, _ = fitted(log_probs, top, own, np.zeros((1, len(labels)), np.intp), 1)
    return float(1 / beta[0, 0])


def scaled(log_probs: Floats, temperature: float) -> Doubles:
    """`log softmax(log p / T)`, `[N, C]`; the most probable class stays the same one."""
    found = as_doubles(log_probs) / temperature
    found -= found.max(1, keepdims=True)
    found -= np.log(np.exp(found).sum(1, keepdims=True))
    first = log_probs.argmax(1)
    moved = np.flatnonzero(found.argmax(1) != first)  # rounding has made two classes equal
    found[moved, first[moved]] = np.nextafter(found[moved].max(1), np.inf)
    return found


def halves(samples: int, splits: int = SPLITS, seed: int = 0) -> NDArray[np.intp]:
    """Random splits in two halves: which one each sample is in, 0 or 1, `[splits, samples]`; 0 has ⌊samples / 2⌋."""
    require(samples >= 2, "samples", samples, "2 or more, to be split in halves")
    generator = np.random.default_rng(seed)
    order = np.stack([generator.permutation(samples) for _ in range(splits)])
    return (order >= samples // 2).astype(np.intp)


def calibrated_halves(
    log_probs: Floats, labels: Integers, splits: int = SPLITS, seed: int = 0
) -> Iterator[tuple[float, Doubles, NDArray[np.intp]]]:
    """A temperature fitted on one half and applied to the other, both ways, for every random split.

    Args:
        log_probs: `[N, C]`, N ≥ 2.
        labels: `[N]`.
        splits: how many.
        seed: of the splits.

    Yields:
        The temperature, the scaled log-probabilities of the half that it was not fitted on, and its indices.
    """
    for half in halves(len(labels), splits, seed):
        for fitting in (0, 1):
            fit, apply = np.flatnonzero(half == fitting), np.flatnonzero(half != fitting)
            temperature = fit_temperature(log_probs[fit], labels[fit])
            yield temperature, scaled(log_probs[apply], temperature), apply


def cross_fitted(log_probs: Floats, labels: Integers, seed: int = 0) -> Doubles:
    """Log-probabilities `[N, C]`, each half of one random split scaled by the temperature of the other half.

    A single sample has no other half: it stays as it is.
    """
    found = as_doubles(log_probs).copy()
    if len(labels) > 1:
        for _, part, indices in calibrated_halves(log_probs, labels, 1, seed):
            found[indices] = part
    return found
