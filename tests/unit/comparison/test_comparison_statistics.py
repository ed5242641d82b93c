"""Means, deviations and intervals of paired differences, against definitions, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dist_dash.comparison.paired import Difference, Summary, expanded_tail, intervals, paired

FEW = settings(max_examples=25)
numbers = st.floats(-1, 1, width=32)


def plain_percentile(differences: np.ndarray) -> np.ndarray:
    """The interval that is too narrow for few values: by another generator and other code."""
    cases, n = differences.shape
    found = []
    for row in differences:
        draws = np.random.default_rng(7).choice(n, size=(2000, n))
        found.append(np.quantile(row[draws].mean(1), [0.025, 0.975]))
    return np.array(found).reshape(cases, 2)


def coverage(ends: np.ndarray) -> float:
    return float(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean())


# -- summaries ---------------------------------------------------------------------------------------------------------


@FEW
@given(st.dictionaries(st.integers(0, 99), numbers, min_size=2, max_size=8))
def test_mean_and_deviation_are_those_of_the_definition(values: dict[int, float]) -> None:
    summary, n = Summary(values), len(values)
    mean = sum(values.values()) / n
    assert summary.n == n
    assert summary.mean == pytest.approx(mean, abs=1e-12)
    assert summary.sd == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values.values()) / (n - 1)), abs=1e-12)
    assert summary.sd == pytest.approx(np.std(list(values.values()), ddof=1), abs=1e-12)


def test_one_seed_has_no_deviation() -> None:
    assert Summary({3: 0.5}).sd is None


# -- the expanded percentile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "t"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (10, 2.26216), (30, 2.04523)])
def test_the_tail_is_hesterbergs_expansion(n: int, t: float) -> None:
    """Critical values of t from a printed table."""
    assert stats.norm.isf(expanded_tail(n)) == pytest.approx(math.sqrt(n / (n - 1)) * t, rel=1e-5)


def test_the_tail_approaches_the_plain_one() -> None:
    tails = [expanded_tail(n) for n in (2, 3, 5, 10, 30, 1000)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025, rel=0.01)
    assert tails[-1] < 0.025


@pytest.mark.parametrize("n", [5, 6])
def test_the_ends_are_the_percentiles_of_all_resamples(n: int) -> None:
    """Against the exact bootstrap distribution, all n^n resamples enumerated."""
    row = np.random.default_rng(3).normal(size=n)
    means = np.array([row[list(draw)].mean() for draw in itertools.product(range(n), repeat=n)])
    ((low, high),), method = intervals(row[None])
    tail = expanded_tail(n)
    slack = 4 * math.sqrt(tail / 9999)
    for end, values in ((low, means), (-high, -means)):
        assert (values < end - 1e-12).mean() <= tail + slack
        assert (values <= end + 1e-12).mean() >= tail - slack
    assert method == "bootstrap"
    plain = np.quantile(means, [0.025, 0.975])
    assert low < plain[0]
    assert high > plain[1]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_fewer_than_five_values_get_students_interval(n: int) -> None:
    row = np.random.default_rng(n).normal(size=n)
    ((low, high),), method = intervals(row[None])
    expected = stats.ttest_1samp(row, 0.0).confidence_interval(0.95)
    assert method == "t"
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_of_five_values_the_expanded_interval_covers_more_nearly_95_percent() -> None:
    differences = np.random.default_rng(11).normal(size=(700, 5))
    expanded, plain = coverage(intervals(differences)[0]), coverage(plain_percentile(differences))
    assert plain < 0.87
    assert 0.89 < expanded < 0.97
    assert abs(expanded - 0.95) < abs(plain - 0.95)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_of_fewer_values_students_covers_95_percent_where_the_range_cannot(n: int) -> None:
    differences = np.random.default_rng(n).normal(size=(3000, n))
    extremes = np.stack([differences.min(1), differences.max(1)], 1)
    assert coverage(extremes) == pytest.approx(1 - 2.0 ** (1 - n), abs=0.03)
    assert coverage(intervals(differences)[0]) == pytest.approx(0.95, abs=0.015)


# -- properties --------------------------------------------------------------------------------------------------------


@FEW
@given(st.lists(numbers, min_size=5, max_size=9), st.floats(0.1, 10), st.floats(-3, 3))
def test_the_interval_follows_scale_and_shift(row: list[float], scale: float, shift: float) -> None:
    plain, other = (intervals(np.array([values]))[0] for values in (row, [scale * v + shift for v in row]))
    np.testing.assert_allclose(other, scale * plain + shift, atol=1e-9)


def test_a_case_is_not_changed_by_its_company() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 5))
    together, _ = intervals(rows)
    for row, ends in zip(rows, together, strict=True):
        np.testing.assert_array_equal(intervals(row[None])[0][0], ends)


@FEW
@given(st.lists(numbers, min_size=2, max_size=8))
def test_the_ends_lie_around_the_mean(row: list[float]) -> None:
    ((low, high),), _ = intervals(np.array([row], dtype=np.float64))
    assert low - 1e-9 <= np.mean(row) <= high + 1e-9


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_differences_pair_by_seed_and_use_only_common_ones() -> None:
    ours, theirs = Summary({0: 1.0, 1: 5.0, 2: 9.0, 7: 100.0}), Summary({2: 3.0, 1: 2.0, 0: 1.0, 9: -50.0})
    (found,) = paired([(ours, theirs)])
    expected = stats.ttest_rel([1.0, 5.0, 9.0], [1.0, 2.0, 3.0]).confidence_interval(0.95)
    assert (found.n, found.mean, found.method) == (3, 3.0, "t")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert not found.excludes_zero


def test_pairing_takes_out_what_the_seeds_have_in_common() -> None:
    seeds = {seed: 10.0 * seed for seed in range(6)}
    ours = Summary({seed: value + 1 + 0.01 * seed for seed, value in seeds.items()})
    (found,) = paired([(ours, Summary(seeds))])
    assert found.mean == pytest.approx(1.025)
    assert found.low == pytest.approx(1.025, abs=0.04)
    assert found.excludes_zero


@pytest.mark.parametrize(
    ("ours", "theirs", "n", "mean"),
    [
        (Summary({0: 2.0}), Summary({0: 1.5}), 1, 0.5),
        (Summary({0: 2.0, 1: 3.0}), Summary({1: 1.0, 2: 1.0}), 1, 2.0),
        (Summary({0: 2.0}), Summary({1: 1.5}), 0, None),
        (None, Summary({0: 1.0}), 0, None),
        (Summary({0: 1.0}), None, 0, None),
    ],
)
def test_fewer_than_two_common_seeds_give_no_interval(
    ours: Summary | None, theirs: Summary | None, n: int, mean: float | None
) -> None:
    (found,) = paired([(ours, theirs)])
    assert found == Difference(n, mean)
    assert not found.excludes_zero


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_equal_runs_differ_by_an_interval_of_no_width_that_holds_zero(n: int) -> None:
    values = Summary({seed: 0.1 * seed + 0.3 for seed in range(n)})
    rounded = Summary({seed: value * (1 + 2e-16) for seed, value in values.values.items()})
    for other in (values, rounded):
        (found,) = paired([(values, other)])
        assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
        assert not found.excludes_zero


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_constant_differences_have_an_interval_of_no_width_that_excludes_zero(n: int) -> None:
    ours, theirs = Summary({s: s + 0.25 for s in range(n)}), Summary({s: float(s) for s in range(n)})
    (found,) = paired([(ours, theirs)])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    assert found.excludes_zero
    assert found.reversed() == Difference(n, -0.25, -0.25, -0.25, found.method)


def test_zero_at_an_end_is_not_excluded() -> None:
    assert not Difference(5, 0.1, 0.0, 0.2, "bootstrap").excludes_zero
    assert not Difference(5, -0.1, -0.2, 0.0, "bootstrap").excludes_zero
    assert Difference(5, -0.1, -0.2, -0.01, "bootstrap").excludes_zero


def test_cases_of_different_n_keep_their_places() -> None:
    values = {seed: float(seed**2) for seed in range(7)}
    zero = Summary(dict.fromkeys(range(7), 0.0))
    cases = [(Summary({s: values[s] for s in range(n)}), zero) for n in (6, 1, 3, 6, 5, 2)]
    found = paired(cases)
    assert [one.n for one in found] == [6, 1, 3, 6, 5, 2]
    for one, (ours, _) in zip(found, cases, strict=True):
        assert one.mean == pytest.approx(ours.mean)
        assert one == paired([(ours, zero)])[0]
    assert [one.method for one in found] == ["bootstrap", None, "t", "bootstrap", "bootstrap", "t"]
