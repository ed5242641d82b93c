"""The ensemble's prediction, which is the mean of its members' probabilities, and what follows from it.

Members count equally, or by weights that are positive and add up to 1. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from dist_dash.errors import BadInput, require
from dist_dash.metrics.accuracy import LOWEST, Doubles, Floats, Integers, as_doubles, nll
from dist_dash.metrics.blocks import in_blocks

_SMALL = 1e-280  # below it a mean of probabilities may have lost digits to underflow


# -- which members, and how much each counts ---------------------------------------------------------------------------


def non_finite_members(log_probs: Floats) -> list[int]:
    """The non-finite members, ascending: those whose log-probabilities `[members, N, C]` hold NaN or +∞ anywhere.

    −∞ is a probability of 0 and is fine.
    """
    members, samples, classes = log_probs.shape
    bad = np.zeros((members, samples), bool)

    def work(_: int, rows: slice) -> None:
        bad[:, rows] = ~(log_probs[:, rows].max(-1) < np.inf)  # the maximum of what holds NaN is NaN

    in_blocks(samples, members * classes, work)
    return [int(member) for member in np.flatnonzero(bad.any(1))]


def members_in_words(members: Sequence[int]) -> str:
    """`member 3`, or `members 3, 5`."""
    return f"member{'s' * (len(members) > 1)} {', '.join(map(str, members))}"


def normalised(weights: ArrayLike | None, members: int, field: str = "weights") -> Doubles | None:
    """Weights of the members `[members]`, divided by their sum; None where all members count equally.

    Raises:
        BadInput: they are not one positive, finite number per member.
    """
    if weights is None:
        return None
    allowed = f"{members} positive, finite numbers, one per member"
    try:
        found = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{field}: {weights!r} is not allowed; it must be {allowed}") from error
    fits = found.shape == (members,) and np.isfinite(found).all() and (found > 0).all()
    require(bool(fits), field, found.tolist(), allowed)
    if (found == found[0]).all():
        return None
    shares: Doubles = found / found.max()  # the sum of large weights stays finite
    return shares / shares.sum()


def weights_of(members: Sequence[int], weights: Doubles | None) -> Doubles | None:
    """The normalised weights of some of the members, normalised among these."""
    return None if weights is None else normalised(weights[list(members)], len(members))


# -- the mean ----------------------------------------------------------------------------------------------------------


def mean_over_members(values: Sequence[Doubles] | Doubles, weights: Doubles | None = None) -> Doubles:
    """The mean of one array per member, `[…]` each; with weights `[members]` that add up to 1, the weighted mean."""
    if weights is None:
        return sum(values[1:], start=values[0]) / len(values)
    return sum((w * own for w, own in zip(weights[1:], values[1:], strict=True)), start=weights[0] * values[0])


def ensemble_log_probs(log_probs: Floats, weights: Doubles | None = None) -> Floats:
    """Log of the mean of the members' softmaxes: `[members, N, C]` → `[N, C]`, in float64."""
    doubles = as_doubles(log_probs)
    return log_of_mean(np.exp(doubles), doubles, weights)


def log_of_mean(probs: Doubles, log_probs: Doubles, weights: Doubles | None = None) -> Doubles:
    """The same where both the probabilities and their logarithms, `[members, N, C]`, are there already."""
    if len(probs) == 1:
        return log_probs[0].copy()
    mean = mean_over_members(probs, weights)
    with np.errstate(divide="ignore"):
        found: Doubles = np.log(mean)
    if (lost := mean < _SMALL).any():
        shares = np.full(len(probs), 1 / len(probs)) if weights is None else weights
        found[lost] = np.logaddexp.reduce(log_probs[:, lost] + np.log(shares)[:, None], axis=0)
    return found


# -- what the members' differences add ---------------------------------------------------------------------------------


def entropy(log_probs: Floats) -> Doubles:
    """`−Σ_c p_c log p_c` in nats, over the last axis: `[…, C]` → `[…]`."""
    doubles = as_doubles(log_probs)
    return entropy_of(np.exp(doubles), doubles)


def entropy_of(probs: Doubles, log_probs: Doubles) -> Doubles:
    """The same where the probabilities are there already."""
    return -np.einsum("...c,...c->...", probs, np.maximum(log_probs, LOWEST))


def mutual_information(log_probs: Floats, weights: Doubles | None = None) -> Doubles:
    """Mutual information of class and member for each sample `[N]`, in nats: how much members contradict each other.

    Entropy of the mean − mean entropy, in [0, log members] (Depeweg et al. 2018, eq. 5).
    """
    information = entropy(ensemble_log_probs(log_probs, weights)) - mean_over_members(entropy(log_probs), weights)
    return np.maximum(information, 0)  # rounding


def variance(log_probs: Floats, weights: Doubles | None = None) -> Doubles:
    """Variance of the members' probabilities, summed over the classes, for each sample `[N]`."""
    probs = np.exp(as_doubles(log_probs))
    return mean_over_members((probs - mean_over_members(probs, weights)) ** 2, weights).sum(-1)


def ambiguity(
    log_probs: Floats,
    labels: Integers,
    loss: Callable[[Floats, Integers], float] = nll,
    weights: Doubles | None = None,
) -> float:
    """Mean loss of the members − loss of the ensemble: what averaging gains (Krogh & Vedelsby 1995).

    Not negative for a loss that is convex in the probabilities, such as `nll` and `brier`.

    Args:
        log_probs: `[members, N, C]`.
        labels: `[N]`.
        loss: of log-probabilities `[N, C]` and labels.
        weights: of the members `[members]`, adding up to 1; None for equal ones.
    """
    mean = np.average([loss(member, labels) for member in log_probs], weights=weights)
    return float(mean) - loss(ensemble_log_probs(log_probs, weights), labels)
