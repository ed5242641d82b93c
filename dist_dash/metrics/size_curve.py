"""What the number of members does: scores of all subsets, and how many members of a baseline are as good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from dist_dash.metrics.accuracy import Doubles, Floats, Integers, accuracy, nll
from dist_dash.metrics.mixture import mean_over_members, weights_of
from dist_dash.metrics.scores import Samples, calibrated_scores


@dataclass(frozen=True)
class SizeScores:
    """Scores of ensembles of `members` of the members: mean and standard deviation over `subsets` of them.

    The deviation is the population's (divided by the number of subsets): 0 where there is one subset.
    """

    members: int
    subsets: int
    accuracy: float
    accuracy_sd: float
    nll: float
    nll_sd: float


def size_curve(
    log_probs: Floats, labels: Integers, most_subsets: int = 100, seed: int = 0, weights: Doubles | None = None
) -> list[SizeScores]:
    """Accuracy and NLL of the ensembles of every size, over all subsets of members.

    Args:
        log_probs: `[members, N, C]`.
        labels: `[N]`.
        most_subsets: where there are more of a size, so many of them, drawn without replacement.
        seed: of that draw.
        weights: of the members, adding up to 1; in a subset they are normalised anew. None for equal ones.

    Returns:
        One entry per size, 1 … members.
    """
    probs = np.exp(np.asarray(log_probs, dtype=np.float64, order="C"))
    curve = []
    for size in range(1, len(log_probs) + 1):
        chosen = subsets_of(len(log_probs), size, most_subsets, seed)
        found = np.array([_scores(probs, labels, subset, weights_of(subset, weights)) for subset in chosen])
        (right, surprise), (right_sd, surprise_sd) = found.mean(0), found.std(0)
        curve.append(SizeScores(size, len(chosen), float(right), float(right_sd), float(surprise), float(surprise_sd)))
    return curve


def calibrated_size_curve(
    log_probs: Floats, labels: Integers, most_subsets: int = 100, seed: int = 0, weights: Doubles | None = None
) -> list[float]:
    """NLL after temperature scaling of the ensembles of every size, a mean over subsets; arguments as of `size_curve`.

    Ashukha et al. 2020, sections 3 and 5. At least two samples are needed.
    """
    probs = np.exp(np.asarray(log_probs, dtype=np.float64, order="C"))
    curve = []
    for size in range(1, len(log_probs) + 1):
        found = []
        for subset in subsets_of(len(log_probs), size, most_subsets, seed):
            mean, log_mean = _ensemble(probs, subset, weights_of(subset, weights))
            scores, _ = calibrated_scores(log_mean, Samples.seen(log_mean, mean, labels))
            found.append(scores["cal_nll"])
        curve.append(float(np.mean(np.array(found, dtype=np.float64))))
    return curve


def subsets_of(members: int, size: int, most: int, seed: int) -> list[tuple[int, ...]]:
    """All subsets of `size` members in lexicographic order, or `most` different ones that the seed chooses."""
    if comb(members, size) <= most:
        return list(combinations(range(members), size))
    generator = np.random.default_rng([seed, members, size])
    found: set[tuple[int, ...]] = set()
    while len(found) < most:
        found.add(tuple(sorted(map(int, generator.choice(members, size, replace=False)))))
    return sorted(found)


def deep_ensemble_equivalent(
    baseline_sizes: Sequence[int], baseline_nll: Sequence[float], value: float
) -> float | None:
    """How many members of the baseline are as good as an ensemble of that NLL (Ashukha et al. 2020, section 5).

    The baseline's curve is made monotone (each size with the best NLL up to it) and interpolated linearly.

    Args:
        baseline_sizes: numbers of members, ascending.
        baseline_nll: NLL, or calibrated NLL, at those sizes.
        value: the same score of the ensemble that is measured.

    Returns:
        The number of members, at least the smallest size: an ensemble that is worse than the baseline there counts as
        that size. None where it is better than the baseline's best: beyond what was measured.
    """
    curve = np.minimum.accumulate(np.asarray(baseline_nll, dtype=np.float64))
    if value < curve[-1]:
        return None
    at = int(np.argmax(curve <= value))  # the first size that is as good
    if at == 0 or value >= curve[0]:
        return float(baseline_sizes[0])
    share = (curve[at - 1] - value) / (curve[at - 1] - curve[at])
    return float(baseline_sizes[at - 1] + share * (baseline_sizes[at] - baseline_sizes[at - 1]))


def _scores(probs: Doubles, labels: Integers, subset: tuple[int, ...], weights: Doubles | None) -> tuple[float, float]:
    _, log_mean = _ensemble(probs, subset, weights)
    return accuracy(log_mean, labels), nll(log_mean, labels)


def _ensemble(probs: Doubles, subset: tuple[int, ...], weights: Doubles | None) -> tuple[Doubles, Doubles]:
    """Probabilities and log-probabilities `[N, C]` of the ensemble of some of the members."""
    mean = mean_over_members([probs[member] for member in subset], weights)
    with np.errstate(divide="ignore"):
        return mean, np.log(mean)
