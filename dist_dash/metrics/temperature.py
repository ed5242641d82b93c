"""Temperature scaling: `softmax(log p / T)` with the T of least NLL (Guo et al. 2017).

All is written in the inverse temperature β = 1 / T and in `d_c = log p_c − max log p ≤ 0`. A sample's scaled prediction
is `exp(β d_c − F(β))` with `F(β) = log Σ_c exp(β d_c)`; its NLL, `F(β) − β d_y`, is convex in β, so that Newton's
method in a bracket finds the least. What scores need of a sample are `F(β)` and `F(2β)`, for `Σ_c p_c²` is
`exp(F(2β) − 2 F(β))`: two functions of one variable, see `partition`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dist_dash.metrics.accuracy import LOWEST, Doubles, Floats
from dist_dash.metrics.partition import RADIUS, Direct, Expanded, Partition

LEAST, MOST = 0.05, 20.0
"""Bounds of the temperature: samples that are all right, or all wrong, would have it go to 0, or to infinity."""
INFORMATION = 4.0
"""What samples must tell of log T before predictions are made surer (T < 1): then its standard error is at most ½.

Where all samples that are fitted on are right, the best T is the least, which says nothing of other samples and makes
their errors as costly as can be. Predictions are made less sure (T > 1) on any evidence, which can cost little.
"""

Groups = NDArray[np.intp]

_LARGE = 2**20  # values; beyond it, one pass for a polynomial is quicker than one for every β
_FEW = 4096  # samples by which the centre of the expansion is chosen
_TRIALS = 3
_STEPS, _TOLERANCE = 60, 1e-9  # Newton doubles the digits: the step after one of 1e-9 would be one of 1e-18


def fitted(log_probs: Floats, top: Doubles, own: Doubles, group: Groups, groups: int) -> tuple[Doubles, Partition]:
    """The β of least NLL of every group of samples, for k ways to group them.

    Samples whose label has a probability of 0 take no part: their NLL is the same at every temperature.

    Args:
        log_probs: `[N, C]`.
        top: the largest of each sample `[N]`.
        own: that of its label `[N]`.
        group: of each sample `[k, N]`, in 0 … groups − 1.
        groups: how many there are; none is empty.

    Returns:
        β `[k, groups]`, and the partition functions of all samples, good for every one of these β.
    """
    shape, d_own = (len(group), groups), own - top
    direct = Direct(log_probs, top)
    if log_probs.size <= _LARGE:
        return _least(direct, d_own, group, np.ones(shape)), direct
    few = slice(None, None, -(-len(top) // _FEW))
    one_group = np.zeros_like(group[:1, few])
    centre = _least(Direct(log_probs[few], top[few]), d_own[few], one_group, np.ones((1, 1))).item()
    for _ in range(_TRIALS):
        expanded = Expanded(log_probs, top, centre)
        beta = _least(expanded, d_own, group, np.full(shape, centre))
        if expanded.covers(beta):
            return beta, expanded
        centre = float(beta.min() + beta.max()) / 2
        if beta.max() / centre - 1 > RADIUS:
            break  # too far apart for any centre
    return _least(direct, d_own, group, beta), direct


def _least(partition: Partition, d_own: Doubles, group: Groups, start: Doubles) -> Doubles:
    """β `[k, groups]` of least NLL of each group; never worse than β = 1, and 1 where nothing tells of a larger one.

    Newton's method for the zero of the slope, which rises with β; it halves the bracket where it leaves it or creeps.
    """
    counted = np.isfinite(d_own)

    def slopes(beta: Doubles) -> tuple[Doubles, Doubles]:
        mean, variance = partition.slopes(np.take_along_axis(beta, group, 1))
        slope = _summed(np.where(counted, mean - d_own, 0), group, beta.shape)
        return slope, _summed(np.where(counted, variance, 0), group, beta.shape)

    low, high = (np.full(start.shape, end) for end in np.clip(partition.reach, 1 / MOST, 1 / LEAST))
    falls, rises = slopes(high)[0] <= 0, slopes(low)[0] >= 0
    # Falling up to the upper end, or rising from the lower one; level all the way, there is nothing to gain.
    beta = np.where(falls & ~rises, high, np.where(rises & ~falls, low, np.clip(start, low, high)))
    done, last = falls | rises, np.full(start.shape, np.inf)
    for _ in range(_STEPS):
        if done.all():
            break
        slope, bend = slopes(beta)
        low, high = np.where(slope < 0, beta, low), np.where(slope > 0, beta, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = np.where(slope == 0, 0, -slope / bend)
        near = np.abs(newton) <= _TOLERANCE * beta
        fits = (beta + newton > low) & (beta + newton < high) & (2 * np.abs(newton) < last)
        step = np.where(near | fits, newton, np.sqrt(low * high) - beta)
        last = np.where(fits, np.abs(step), np.inf)
        beta = np.where(done, beta, np.clip(beta + step, low, high))
        done |= near
    beta = _no_worse(partition, d_own, group, beta)
    information = beta**2 * slopes(beta)[1]  # Fisher's, of log β
    return np.where((beta > 1) & (information < INFORMATION), 1.0, beta)


def remark(found: Sequence[float]) -> str | None:
    """What a reader should know of fitted temperatures, in words; None: nothing."""
    kept = sum(one == 1 for one in found)
    least, most = (sum(abs(one / bound - 1) < 1e-9 for one in found) for bound in (LEAST, MOST))
    said = [
        f"{kept} left at 1 (nothing is gained, or too few errors tell how sure to be)" if kept else "",
        f"{least} at the lower bound, {LEAST}" if least else "",
        f"{most} at the upper bound, {MOST:g}" if most else "",
    ]
    return f"of {len(found)} fitted, " + "; ".join(filter(None, said)) if any(said) else None


def _no_worse(partition: Partition, d_own: Doubles, group: Groups, beta: Doubles) -> Doubles:
    """β = 1 where rounding has made the fitted one worse."""
    one = np.ones_like(beta)
    if not partition.covers(one):
        return beta  # it is far away, and the gain far above rounding
    losses = []
    for candidate in (beta, one):
        of_sample = np.take_along_axis(candidate, group, 1)
        log_probs = of_sample * d_own - partition.logs(of_sample)[0]
        losses.append(_summed(-np.maximum(log_probs, LOWEST), group, beta.shape))
    return np.where(losses[0] < losses[1], beta, one)


def _summed(values: Doubles, group: Groups, shape: tuple[int, ...]) -> Doubles:
    """Sums over the samples of each group `[k, groups]`, of values `[k, N]`."""
    return np.stack([np.bincount(of, one, shape[1]) for of, one in zip(group, values, strict=True)])
