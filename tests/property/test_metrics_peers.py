"""The metrics against scikit-learn and SciPy, where they have them."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score

from dist_dash.metrics.accuracy import accuracy, brier, coverage_accuracy, nll, top_k
from dist_dash.metrics.calibration import reliability
from dist_dash.metrics.diversity import disagreement, error_correlation, pairwise_kl
from dist_dash.metrics.mixture import ensemble_log_probs, entropy
from dist_dash.metrics.scores import scores


@st.composite
def predictions(draw):
    """Log-probabilities `[members, N, C]` and labels `[N]`, some in each class."""
    classes = draw(st.integers(2, 9))
    samples = 15 * draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    probs = generator.dirichlet(np.full(classes, draw(st.sampled_from([0.2, 1.0, 5.0]))), size=(3, samples))
    probs = (1 - 1e-9) * probs + 1e-9 / classes  # log_loss does not look below 2e-16
    return np.log(probs), generator.permutation(np.arange(samples) % classes)


@given(predictions(), st.integers(1, 4))
def test_scikit_learn_scores_one_predictor_alike(case, k):
    log_probs, labels = case[0][0], case[1]
    probs, classes = np.exp(log_probs), np.arange(case[0].shape[2])
    assert accuracy(log_probs, labels) == pytest.approx(accuracy_score(labels, probs.argmax(1)))
    assert nll(log_probs, labels) == pytest.approx(log_loss(labels, probs, labels=classes), rel=1e-9)
    if len(classes) == 2:
        assert brier(log_probs, labels) == pytest.approx(2 * brier_score_loss(labels, probs[:, 1]))
    elif k < len(classes):
        assert top_k(log_probs, labels, k) == pytest.approx(top_k_accuracy_score(labels, probs, k=k, labels=classes))
    each = [brier_score_loss(labels == c, probs[:, c]) for c in classes]  # one class against the others
    assert brier(log_probs, labels) == pytest.approx(sum(each))


@given(predictions(), st.sampled_from([3, 5, 15]))
@pytest.mark.parametrize(("equal_mass", "strategy"), [(False, "uniform"), (True, "quantile")])
def test_scikit_learn_draws_the_same_reliability_diagram(equal_mass, strategy, case, bins):
    log_probs, labels = case[0][0], case[1]
    confidence, right = np.exp(log_probs).max(1), log_probs.argmax(1) == labels
    accuracies, confidences = calibration_curve(right, confidence, n_bins=bins, strategy=strategy)
    found = reliability(log_probs, labels, bins, equal_mass)
    some = found.count > 0
    np.testing.assert_allclose(found.accuracy[some], accuracies, atol=1e-12)
    np.testing.assert_allclose(found.confidence[some], confidences, atol=1e-12)
    error = np.sum(found.count[some] / len(labels) * np.abs(accuracies - confidences))
    assert scores(log_probs, labels)["ece_mass" if equal_mass else "ece"] == pytest.approx(error) or bins != 15


@given(predictions())
def test_scipy_agrees_on_members(case):
    log_probs, labels = case
    probs = np.exp(log_probs)
    np.testing.assert_allclose(entropy(log_probs), scipy.stats.entropy(probs, axis=-1), atol=1e-12)
    np.testing.assert_allclose(ensemble_log_probs(log_probs), logsumexp(log_probs, 0, b=1 / 3), atol=1e-12)
    kl = [[scipy.stats.entropy(p, q, axis=-1).mean() for q in probs] for p in probs]
    np.testing.assert_allclose(pairwise_kl(log_probs), kl, rtol=1e-9, atol=1e-12)
    wrong = (log_probs.argmax(-1) != labels).astype(float)
    for i in range(3):
        for j in range(3):
            if wrong[i].std() and wrong[j].std():
                expected = scipy.stats.pearsonr(wrong[i], wrong[j]).statistic
                assert error_correlation(log_probs, labels)[i, j] == pytest.approx(expected, abs=1e-12)
            agreed = accuracy_score(probs[i].argmax(1), probs[j].argmax(1))
            assert disagreement(log_probs)[i, j] == pytest.approx(1 - agreed)


@given(predictions())
def test_full_coverage_is_the_accuracy(case):
    log_probs, labels = case[0][0], case[1]
    curve = coverage_accuracy(log_probs, labels)
    assert curve[-1] == pytest.approx(accuracy_score(labels, log_probs.argmax(1)))
    order = np.argsort(-log_probs.max(1))  # no ties in these samples
    running = [accuracy_score(labels[order[:k]], log_probs[order[:k]].argmax(1)) for k in range(1, len(labels) + 1)]
    np.testing.assert_allclose(curve, running, atol=1e-12)
