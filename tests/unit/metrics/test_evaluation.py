import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dash.metrics.accuracy import aac, accuracy, brier, clipped, coverage_accuracy, nll, top_k
from dist_dash.metrics.calibration import ece, reliability
from dist_dash.metrics.diversity import disagreement, error_correlation, mean_of_pairs, pairwise_kl
from dist_dash.metrics.mixture import ambiguity, ensemble_log_probs, entropy, mutual_information, variance
from dist_dash.metrics.scores import scores
from dist_dash.metrics.size_curve import deep_ensemble_equivalent, subsets_of

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@st.composite
def predictions(draw):
    """Log-probabilities `[members, N, C]` and labels `[N]`."""
    members, n, classes = draw(st.integers(1, 4)), draw(st.integers(1, 25)), draw(st.integers(2, 8))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = draw(st.sampled_from([0.5, 3.0, 15.0])) * generator.standard_normal((members, n, classes))
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return log_probs, generator.integers(classes, size=n)


def best(row) -> int:
    return max(range(len(row)), key=lambda c: row[c])


def ece_by_definition(log_probs, labels, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = []
        for row, label in zip(log_probs, labels, strict=True):
            confidence, low, high = math.exp(max(row)), b / bins, (b + 1) / bins
            if low < confidence <= high or (b == bins - 1 and confidence > high):
                inside.append((confidence, best(row) == label))
        if inside:
            gap = sum(right for _, right in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(labels) * abs(gap)
    return total


@FEW
@given(predictions(), st.integers(1, 6))
def test_scores_equal_loops_written_from_their_definitions(case, k):
    for log_probs, labels in ((member, case[1]) for member in case[0]):
        rows, n = log_probs.tolist(), len(labels)
        right = sum(best(row) == y for row, y in zip(rows, labels, strict=True)) / n
        ahead = [sum(v > row[y] for v in row) for row, y in zip(rows, labels, strict=True)]
        squares = [
            (math.exp(v) - (c == y)) ** 2 for row, y in zip(rows, labels, strict=True) for c, v in enumerate(row)
        ]
        assert accuracy(log_probs, labels) == pytest.approx(right, abs=1e-12)
        assert top_k(log_probs, labels, k) == pytest.approx(sum(a < k for a in ahead) / n, abs=1e-12)
        assert nll(log_probs, labels) == pytest.approx(-sum(r[y] for r, y in zip(rows, labels, strict=True)) / n)
        assert brier(log_probs, labels) == pytest.approx(math.fsum(squares) / n)
        assert ece(log_probs, labels) == pytest.approx(ece_by_definition(rows, labels, 15), abs=1e-12)
        assert ece(log_probs, labels, 4) == pytest.approx(ece_by_definition(rows, labels, 4), abs=1e-12)


@FEW
@given(predictions())
def test_pairwise_matrices_equal_loops_written_from_their_definitions(case):
    log_probs, labels = case
    members, n, classes = log_probs.shape
    choice = [[best(row) for row in member.tolist()] for member in log_probs]
    wrong = [[c != y for c, y in zip(row, labels, strict=True)] for row in choice]
    for i in range(members):
        for j in range(members):
            differs = sum(a != b for a, b in zip(choice[i], choice[j], strict=True)) / n
            p, q = log_probs[i].tolist(), log_probs[j].tolist()
            kl = sum(math.exp(p[s][c]) * (p[s][c] - q[s][c]) for s in range(n) for c in range(classes)) / n
            assert disagreement(log_probs)[i, j] == pytest.approx(differs, abs=1e-12)
            assert pairwise_kl(log_probs)[i, j] == pytest.approx(kl, rel=1e-9, abs=1e-12)
            correlation = 0.0
            if len(set(wrong[i])) == len(set(wrong[j])) == 2:
                correlation = np.corrcoef(np.array([wrong[i], wrong[j]], float))[0, 1]
            assert error_correlation(log_probs, labels)[i, j] == pytest.approx(correlation, abs=1e-9)


@FEW
@given(predictions())
def test_the_ensemble_is_the_mean_of_the_probabilities(case):
    log_probs, _ = case
    found = ensemble_log_probs(log_probs)
    assert np.allclose(np.exp(found), np.exp(log_probs).mean(0), rtol=1e-12, atol=1e-300)
    assert np.allclose(ensemble_log_probs(log_probs[:1]), log_probs[0], rtol=1e-12)


def test_the_ensemble_keeps_probabilities_that_no_float_holds():
    """(e^−800 + e^−900) / 2 and (e^−800 + 0) / 2 underflow; 0 and 0 stay 0."""
    log_probs = np.array([[[-800.0, -800.0, -np.inf]], [[-900.0, -np.inf, -np.inf]]])
    found = ensemble_log_probs(log_probs)[0]
    assert found[:2] == pytest.approx([-800 - math.log(2)] * 2, abs=1e-12)
    assert found[2] == -np.inf


@FEW
@given(predictions())
def test_scores_leave_their_input_alone(case):
    log_probs, labels = case
    before = log_probs.copy(), labels.copy()
    scores(log_probs[0], labels)
    ensemble_log_probs(log_probs), pairwise_kl(log_probs), error_correlation(log_probs, labels)
    assert np.array_equal(log_probs, before[0])
    assert np.array_equal(labels, before[1])


def two_classes(confidence: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log([[confidence, 1 - confidence]])


@pytest.mark.parametrize("bins", [4, 8, 15])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(bins):
    """One sample on the edge, one just below and one just above: with whom it shares a bin decides the gap."""
    tested = 0
    for edge in np.linspace(0, 1, bins + 1)[1:-1]:
        on = two_classes(edge)
        if edge <= 0.5 or np.exp(on.max()) != edge:
            continue
        tested += 1
        below, above = two_classes(edge - 1e-6), two_classes(edge + 1e-6)
        labels = np.array([0, 1])  # the first is right, the second wrong: |gap| differs between one bin and two
        together = abs(1 - edge - (edge - 1e-6)) / 2
        apart = (abs(1 - edge) + edge) / 2
        assert ece(np.concatenate([on, below]), labels, bins) == pytest.approx(together, abs=1e-5)
        assert ece(np.concatenate([on, above]), labels, bins) == pytest.approx(apart, abs=1e-5)
    assert tested


def test_full_confidence_lies_in_the_last_bin():
    certain = two_classes(1.0)
    assert ece(certain, np.array([0])) == 0
    assert ece(certain, np.array([1])) == 1
    both = np.concatenate([certain, two_classes(0.95)])
    assert ece(both, np.array([1, 0])) == pytest.approx(abs(1 - 1.95) / 2)
    beyond = np.array([[1e-9, -30.0], [-0.05, -3.02]])  # rounding may leave a probability a little above 1
    assert ece(beyond, np.array([1, 0])) == pytest.approx(abs(1 - 1 - math.exp(-0.05)) / 2, abs=1e-6)


def test_ties_count_by_the_order_of_the_classes():
    uniform = np.full((8, 8), -math.log(8))
    labels = np.arange(8)
    assert accuracy(uniform, labels) == 1 / 8
    assert top_k(uniform, labels) == 5 / 8
    assert scores(uniform, labels)["top5"] == 5 / 8


def test_perfect_and_hopeless_predictions_have_their_known_scores():
    with np.errstate(divide="ignore"):
        perfect = np.log(np.eye(3))
    labels = np.arange(3)
    assert scores(perfect, labels) == {
        "accuracy": 1,
        "nll": 0,
        "brier": 0,
        "ece": 0,
        "ece_mass": 0,
        "aac": 1,
        "clipped": 0,
    }
    assert brier(perfect, (labels + 1) % 3) == 2
    assert accuracy(perfect, (labels + 1) % 3) == 0


def test_coverage_by_hand():
    """Confidences 0.9, 0.8, 0.8, 0.6, of which the first and one of the equal ones are right."""
    log_probs = np.concatenate([two_classes(confidence) for confidence in (0.8, 0.9, 0.6, 0.8)])
    labels = np.array([0, 0, 1, 1])
    expected = [1, 1.5 / 2, 2 / 3, 2 / 4]
    assert coverage_accuracy(log_probs, labels) == pytest.approx(expected)
    assert aac(log_probs, labels) == pytest.approx(sum(expected) / 4)
    assert aac(log_probs[::-1], labels[::-1]) == aac(log_probs, labels)


def test_bins_of_equal_mass_by_hand():
    """Confidences 0.6 (right), 0.7 (wrong), 0.8 (right), 0.9 (right) in two bins: gaps −0.3 / 4 and +0.3 / 4."""
    log_probs = np.concatenate([two_classes(confidence) for confidence in (0.9, 0.6, 0.8, 0.7)])
    labels = np.array([0, 0, 0, 1])
    assert ece(log_probs, labels, 2, equal_mass=True) == pytest.approx(0.3 / 4 + 0.3 / 4)
    found = reliability(log_probs, labels, 2, equal_mass=True)
    assert found.upper == pytest.approx([0.7, 1])
    assert found.accuracy == pytest.approx([0.5, 1])
    assert found.confidence == pytest.approx([0.65, 0.85])


def test_equal_confidences_stay_in_one_bin():
    log_probs, labels = np.repeat(two_classes(0.8), 6, 0), np.array([0, 0, 0, 0, 1, 1])
    found = reliability(log_probs, labels, 3, equal_mass=True)
    assert found.count.tolist() == [6, 0, 0]
    assert np.isnan(found.accuracy[1:]).all()
    assert ece(log_probs, labels, 3, equal_mass=True) == pytest.approx(0.8 - 4 / 6)


def test_two_members_that_contradict_each_other():
    """Each certain of another class: the mean is a coin, one bit of information is in who is asked."""
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert mutual_information(log_probs) == pytest.approx([math.log(2)])
    assert entropy(log_probs).tolist() == [[0], [0]]
    assert variance(log_probs) == pytest.approx([2 * 0.25])
    assert ambiguity(log_probs, np.array([0]), brier) == pytest.approx(1 - 0.5)


def test_a_probability_of_zero_costs_what_the_smallest_number_does():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[1.0, 0.0], [0.5, 0.5]])
    for stored in (log_probs, log_probs.astype(np.float32), log_probs.astype(np.float16)):
        assert clipped(stored, np.array([1, 1])) == 1
        assert nll(stored, np.array([1, 1])) == pytest.approx((708.396 + math.log(2)) / 2, rel=1e-3)
        assert clipped(stored, np.array([0, 1])) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_finite_logarithms_keep_their_value(dtype):
    """Also where the probability is too small for the type: −300 is no probability in float32, but a logarithm."""
    log_probs = np.array([[0.0, -300.0]], dtype)
    assert nll(log_probs, np.array([1])) == 300
    assert clipped(log_probs, np.array([1])) == 0


def test_how_many_members_are_as_good_by_hand():
    sizes, losses = [1, 2, 4, 8], [1.0, 0.8, 0.85, 0.6]  # monotone: 1.0, 0.8, 0.8, 0.6
    expected = {1.2: 1, 1.0: 1, 0.9: 1.5, 0.8: 2, 0.7: 6, 0.6: 8, 0.59: None}
    assert {value: deep_ensemble_equivalent(sizes, losses, value) for value in expected} == pytest.approx(expected)


def test_more_subsets_than_wished_for_are_drawn_by_the_seed():
    some = subsets_of(10, 5, 20, 0)
    assert len(set(some)) == 20
    assert some == subsets_of(10, 5, 20, 0) == sorted(some)
    assert some != subsets_of(10, 5, 20, 1)
    assert {len(set(subset)) for subset in some} == {5}


def test_errors_that_never_vary_correlate_with_nothing():
    log_probs = np.log([[[0.9, 0.1]] * 3, [[0.1, 0.9]] * 3, [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]])
    always_right, always_wrong, mixed = range(3)
    found = error_correlation(log_probs, np.zeros(3, int))
    assert found[mixed, mixed] == pytest.approx(1)
    found[mixed, mixed] = 0
    assert np.array_equal(found, np.zeros((3, 3)))
    assert disagreement(log_probs)[always_right, always_wrong] == 1


def test_a_member_does_not_differ_from_itself():
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 997)))
    assert np.array_equal(np.diag(pairwise_kl(log_probs)), np.zeros(3))
    assert np.array_equal(np.diag(disagreement(log_probs)), np.zeros(3))


def test_the_mean_of_pairs_leaves_the_diagonal_out():
    matrix = np.array([[9.0, 1, 2], [3, 9, 4], [5, 6, 9]])
    assert mean_of_pairs(matrix) == 3.5
    assert mean_of_pairs(matrix[:1, :1]) is None
