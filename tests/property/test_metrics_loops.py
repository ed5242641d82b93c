"""Every metric against a loop in plain Python that was written from its definition."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dash.metrics.accuracy import LOWEST, aac, accuracy, brier, clipped, coverage_accuracy, nll, top_k
from dist_dash.metrics.calibration import ece, reliability
from dist_dash.metrics.diversity import disagreement, error_correlation, mean_of_pairs, pairwise_kl
from dist_dash.metrics.mixture import ambiguity, ensemble_log_probs, entropy, mutual_information, variance
from dist_dash.metrics.size_curve import deep_ensemble_equivalent, size_curve, subsets_of


@st.composite
def predictions(draw, most_members=4, most_samples=25, most_classes=8):
    """Log-probabilities `[members, N, C]` and labels `[N]`: with ties, zeros, and in every precision."""
    shape = draw(st.integers(1, most_members)), draw(st.integers(1, most_samples)), draw(st.integers(2, most_classes))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = draw(st.sampled_from([0.5, 3.0, 15.0])) * generator.standard_normal(shape)
    if draw(st.booleans()):
        logits = np.round(logits)  # ties between classes, and between samples
    if draw(st.booleans()):
        logits[generator.random(shape) < 0.3] = -np.inf
        logits[..., 0] = np.maximum(logits[..., 0], 0)  # no sample without any class
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    dtype = draw(st.sampled_from([np.float64, np.float64, np.float32, np.float16]))
    return log_probs.astype(dtype), generator.integers(shape[2], size=shape[1])


# -- the loops ---------------------------------------------------------------------------------------------------------


def rows_of(log_probs):
    return [[float(v) for v in row] for row in log_probs]


def best(row):
    return max(range(len(row)), key=lambda c: row[c])


def in_top(row, label, k):
    return label in sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def loop_brier(rows, labels):
    return mean(
        math.fsum((math.exp(v) - (c == y)) ** 2 for c, v in enumerate(row)) for row, y in zip(rows, labels, strict=True)
    )


def loop_reliability(rows, labels, bins, equal_mass):
    """Per bin its samples' confidences and whether they are right; `upper` bounds of the bins."""
    found = sorted((math.exp(max(row)), best(row) == y) for row, y in zip(rows, labels, strict=True))
    uppers = [(b + 1) / bins for b in range(bins)]
    if equal_mass:
        uppers = [found[math.ceil((b + 1) * len(found) / bins) - 1][0] for b in range(bins - 1)] + [1.0]
    content = [[] for _ in range(bins)]
    for confidence, right in found:
        b = 0
        while b < bins - 1 and confidence > uppers[b]:
            b += 1
        content[b].append((confidence, right))
    return uppers, content


def loop_ece(rows, labels, bins, equal_mass):
    _, content = loop_reliability(rows, labels, bins, equal_mass)
    parts = ((len(c), mean(r for _, r in c) - mean(p for p, _ in c)) for c in content if c)
    return math.fsum(n / len(rows) * abs(gap) for n, gap in parts)


def loop_coverage(rows, labels):
    ranked = sorted(((max(row), best(row) == y) for row, y in zip(rows, labels, strict=True)), reverse=True)
    of = [mean(right for other, right in ranked if other == confidence) for confidence, _ in ranked]
    return [mean(of[:k]) for k in range(1, len(of) + 1)]


def loop_entropy(probs):
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def log(p):
    return max(math.log(p), LOWEST) if p > 0 else LOWEST


# -- one predictor -----------------------------------------------------------------------------------------------------


@given(predictions(), st.integers(1, 6))
def test_right_wrong_and_surprise(case, k):
    for log_probs in case[0]:
        rows, labels = rows_of(log_probs), case[1].tolist()
        pairs = list(zip(rows, labels, strict=True))
        assert accuracy(log_probs, case[1]) == pytest.approx(mean(best(row) == y for row, y in pairs), abs=1e-12)
        assert top_k(log_probs, case[1], k) == pytest.approx(mean(in_top(row, y, k) for row, y in pairs), abs=1e-12)
        assert nll(log_probs, case[1]) == pytest.approx(-mean(max(row[y], LOWEST) for row, y in pairs), rel=1e-12)
        assert clipped(log_probs, case[1]) == sum(row[y] == -math.inf for row, y in pairs)
        assert brier(log_probs, case[1]) == pytest.approx(loop_brier(rows, labels), abs=1e-12)


@given(predictions(), st.integers(1, 16), st.booleans())
def test_calibration(case, bins, equal_mass):
    for log_probs in case[0]:
        rows, labels = rows_of(log_probs), case[1].tolist()
        found = reliability(log_probs, case[1], bins, equal_mass)
        uppers, content = loop_reliability(rows, labels, bins, equal_mass)
        np.testing.assert_allclose(found.upper, uppers, atol=1e-15)
        np.testing.assert_array_equal(found.lower[1:], found.upper[:-1])
        assert (found.lower[0], found.upper[-1]) == (0, 1)
        assert found.count.tolist() == [len(c) for c in content]
        confidence = [mean(p for p, _ in c) if c else math.nan for c in content]
        right = [mean(r for _, r in c) if c else math.nan for c in content]
        np.testing.assert_allclose(found.confidence, confidence, atol=1e-12)
        np.testing.assert_allclose(found.accuracy, right, atol=1e-12)
        expected = loop_ece(rows, labels, bins, equal_mass)
        assert ece(log_probs, case[1], bins, equal_mass) == pytest.approx(expected, abs=1e-12)


@given(predictions())
def test_coverage(case):
    for log_probs in case[0]:
        expected = loop_coverage(rows_of(log_probs), case[1].tolist())
        np.testing.assert_allclose(coverage_accuracy(log_probs, case[1]), expected, atol=1e-12)
        assert aac(log_probs, case[1]) == pytest.approx(mean(expected), abs=1e-12)


# -- several members ---------------------------------------------------------------------------------------------------


@given(predictions())
def test_pairs_of_members(case):
    log_probs, labels = case[0], case[1].tolist()
    members = [rows_of(member) for member in log_probs]
    wrong = [[best(row) != y for row, y in zip(rows, labels, strict=True)] for rows in members]
    found = disagreement(log_probs), pairwise_kl(log_probs), error_correlation(*case)
    for i, one in enumerate(members):
        for j, other in enumerate(members):
            pairs = list(zip(one, other, strict=True))
            kl = mean(
                math.fsum(math.exp(v) * (max(v, LOWEST) - max(w, LOWEST)) for v, w in zip(p, q, strict=True))
                for p, q in pairs
            )
            correlation = 0.0
            if len(set(wrong[i])) == len(set(wrong[j])) == 2:
                centred = [[w - mean(side) for w in side] for side in (wrong[i], wrong[j])]
                both = math.fsum(a * b for a, b in zip(*centred, strict=True))
                correlation = both / math.prod(math.sqrt(math.fsum(a * a for a in side)) for side in centred)
            assert found[0][i, j] == pytest.approx(mean(best(p) != best(q) for p, q in pairs), abs=1e-12)
            assert found[1][i, j] == pytest.approx(kl, rel=1e-9, abs=1e-10)
            assert found[2][i, j] == pytest.approx(correlation, abs=1e-9)
    for matrix in found:
        off = [matrix[i, j] for i in range(len(matrix)) for j in range(len(matrix)) if i != j]
        assert mean_of_pairs(matrix) == (pytest.approx(mean(off), abs=1e-12) if off else None)


@given(predictions())
def test_members_and_their_ensemble(case):
    log_probs, labels = case[0], case[1].tolist()
    probs = [[[math.exp(v) for v in row] for row in rows_of(member)] for member in log_probs]
    averaged = [[mean(column) for column in zip(*rows, strict=True)] for rows in zip(*probs, strict=True)]
    np.testing.assert_allclose(np.exp(ensemble_log_probs(log_probs)), averaged, rtol=1e-12, atol=1e-300)
    inner = [mean(loop_entropy(row) for row in rows) for rows in zip(*probs, strict=True)]
    outer = [loop_entropy(row) for row in averaged]
    information = [max(a - b, 0) for a, b in zip(outer, inner, strict=True)]
    spread = [
        math.fsum(mean((p - m) ** 2 for p in column) for column, m in zip(zip(*rows, strict=True), row, strict=True))
        for rows, row in zip(zip(*probs, strict=True), averaged, strict=True)
    ]
    np.testing.assert_allclose(entropy(log_probs).mean(0), inner, atol=1e-12)
    np.testing.assert_allclose(mutual_information(log_probs), information, atol=1e-12)
    np.testing.assert_allclose(variance(log_probs), spread, atol=1e-12)
    gain = mean(mean(log(row[y]) for row, y in zip(a, labels, strict=True)) for a in probs)
    gain = mean(log(row[y]) for row, y in zip(averaged, labels, strict=True)) - gain
    assert ambiguity(*case) == pytest.approx(gain, rel=1e-9, abs=1e-9)
    squares = [loop_brier(rows_of(member), labels) for member in log_probs]
    with np.errstate(divide="ignore"):
        own = loop_brier(rows_of(np.log(averaged)), labels)
    assert ambiguity(*case, loss=brier) == pytest.approx(mean(squares) - own, abs=1e-12)


@given(predictions())
def test_averaging_never_costs(case):
    exact = case[0].astype(np.float64)
    exact -= np.logaddexp.reduce(exact, axis=-1, keepdims=True)
    assert ambiguity(exact, case[1]) >= -1e-12
    assert ambiguity(exact, case[1], loss=brier) >= -1e-12
    assert (mutual_information(exact) <= math.log(len(exact)) + 1e-12).all()
    assert (mutual_information(exact) >= 0).all()


# -- numbers of members ------------------------------------------------------------------------------------------------


@given(predictions(), st.integers(1, 4))
def test_the_curve_over_all_subsets(case, most):
    log_probs, labels = case
    curve = size_curve(log_probs, labels, most)
    assert [one.members for one in curve] == list(range(1, len(log_probs) + 1))
    for one in curve:
        every = list(combinations(range(len(log_probs)), one.members))
        chosen = subsets_of(len(log_probs), one.members, most, 0)
        assert len(chosen) == len(set(chosen)) == one.subsets == min(most, len(every))
        assert set(chosen) <= set(every)
        found = [ensemble_log_probs(log_probs[list(subset)]) for subset in chosen]
        rights = [accuracy(member, labels) for member in found]
        surprises = [nll(member, labels) for member in found]
        for name, values in (("accuracy", rights), ("nll", surprises)):
            assert getattr(one, name) == pytest.approx(mean(values), rel=1e-9)
            deviation = math.sqrt(mean((value - mean(values)) ** 2 for value in values))
            assert getattr(one, f"{name}_sd") == pytest.approx(deviation, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(0.1, 2.0), min_size=1, max_size=6), st.data())
def test_the_equivalent_number_of_members(losses, data):
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=len(losses), max_size=len(losses), unique=True).map(sorted))
    value = data.draw(st.one_of(st.floats(0.05, 2.2), st.sampled_from(losses)))
    found = deep_ensemble_equivalent(sizes, losses, value)
    best_so_far = [min(losses[: i + 1]) for i in range(len(losses))]
    if value < best_so_far[-1]:
        assert found is None
    elif value >= best_so_far[0]:
        assert found == sizes[0]
    else:
        # Along the curve in steps: the first place at which it is down to the value.
        steps = np.linspace(sizes[0], sizes[-1], 4001)
        place = next(s for s in steps if np.interp(s, sizes, best_so_far) <= value + 1e-12)
        assert found == pytest.approx(place, abs=2 * (steps[1] - steps[0]))
