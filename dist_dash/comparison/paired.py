"""Means, deviations and paired differences over seeds, with intervals that are valid for few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL, RESAMPLES, SEED, BATCH = 0.95, 9_999, 0, 200
NEGLIGIBLE = 1e-12  # of the values: what sums in another order differ by is no difference


@dataclass(frozen=True)
class Summary:
    """One metric of one group.

    Args:
        values: by seed, ascending; at least one.
    """

    values: Mapping[int, float]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return math.fsum(self.values.values()) / self.n

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds, with n − 1; None of one seed."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None


@dataclass(frozen=True)
class Difference:
    """One metric of one group minus that of another, seed by seed.

    Args:
        n: seeds that both have.
        mean: of the differences; None without a common seed.
        low: end of the 95 % interval of the mean; None with fewer than two common seeds.
        high: the other end.
        method: `bootstrap` or `t`; None without an interval.
    """

    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def reversed(self) -> Difference:
        """The same difference with its sign reversed."""
        low, high = (None if end is None else 0.0 - end for end in (self.high, self.low))
        return Difference(self.n, None if self.mean is None else 0.0 - self.mean, low, high, self.method)


def expanded_tail(n: int) -> float:
    """The tail probability that makes a percentile interval from `n` values as wide as Student's.

    `Φ(−√(n/(n−1)) · t_{0.975, n−1})` instead of 0.025: the resampling distribution is too narrow by √((n−1)/n), and its
    tails are the normal's (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", expanded percentiles).
    """
    from scipy import stats

    return float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1)))


def intervals(differences: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """95 % intervals of the means of paired differences; seeds are the units of replication.

    From five values on: bootstrap, percentile method with expanded percentiles. Fewer values have no resample as
    extreme as the expanded percentile (the most extreme one has probability n^−n): a bootstrap interval would be their
    range, which holds the true mean in 1 − 2^(1−n) of the cases at most (symmetric values). They get what the expansion
    approximates, Student's interval.

    Args:
        differences: `[cases, n]`, n ≥ 2, in the order of the seeds; each row's result depends on that row alone.

    Returns:
        `[cases, 2]`, low and high; and the method, `bootstrap` or `t`.
    """
    from scipy import stats

    n = differences.shape[1]
    tail = expanded_tail(n)
    if tail < n**-n:
        half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * differences.std(1, ddof=1) / math.sqrt(n)
        means = differences.mean(1)
        return np.stack([means - half, means + half], 1), "t"
    found = stats.bootstrap(
        (differences,),
        np.mean,
        axis=-1,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return np.stack([found.confidence_interval.low, found.confidence_interval.high], 1), "bootstrap"


def paired(cases: Iterable[tuple[Summary | None, Summary | None]]) -> list[Difference]:
    """The first minus the second of each case over the seeds that both have; cases of equal n together.

    Args:
        cases: a metric of one group and of another; None where a group lacks it.
    """
    rows = [_differences(ours, theirs) for ours, theirs in cases]
    found = [Difference(len(row), math.fsum(row) / len(row) if row else None) for row in rows]
    for n in {len(row) for row in rows if len(row) > 1}:
        which = [i for i, row in enumerate(rows) if len(row) == n]
        ends, method = intervals(np.array([rows[i] for i in which], dtype=np.float64))
        for i, (low, high) in zip(which, ends.tolist(), strict=True):
            found[i] = Difference(n, found[i].mean, low, high, method)
    return found


def _differences(ours: Summary | None, theirs: Summary | None) -> Sequence[float]:
    if ours is None or theirs is None:
        return []
    pairs = [(ours.values[seed], theirs.values[seed]) for seed in sorted(ours.values.keys() & theirs.values.keys())]
    return [0.0 if abs(a - b) <= NEGLIGIBLE * max(abs(a), abs(b)) else a - b for a, b in pairs]
