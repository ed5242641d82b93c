"""Detection against loops over all pairs of samples and all thresholds; uncertainty against loops over classes."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dist_dash.analysis.shift.ood import detection, uncertainties

# Few different values: ties are what goes wrong.
scores = hnp.arrays(np.float64, st.integers(1, 25), elements=st.integers(-6, 6).map(lambda n: n / 4))


@st.composite
def log_probs(draw, least_members=1):
    members, samples, classes = draw(st.integers(least_members, 4)), draw(st.integers(1, 5)), draw(st.integers(2, 6))
    logits = draw(hnp.arrays(np.float64, (members, samples, classes), elements=st.floats(-30, 30)))
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def pairs_won(inside, outside):
    """P(outside > inside) + ½ P(equal)."""
    won = sum(1.0 if o > i else 0.5 if o == i else 0.0 for i in inside for o in outside)
    return won / (len(inside) * len(outside))


def average_precision(positive, negative):
    """Σ (recall − recall before) · precision, from the highest threshold to the lowest."""
    found, recall_before = 0.0, 0.0
    for threshold in sorted({*positive, *negative}, reverse=True):
        hits = sum(1 for p in positive if p >= threshold)
        alarms = sum(1 for n in negative if n >= threshold)
        found += (hits / len(positive) - recall_before) * hits / (hits + alarms)
        recall_before = hits / len(positive)
    return found


def passing_for_the_data(inside, outside):
    """The share of `outside` below the lowest threshold that at least 95 % of `inside` are below or at."""
    for threshold in sorted({*inside, *outside}):
        if sum(1 for i in inside if i <= threshold) >= 0.95 * len(inside):
            return sum(1 for o in outside if o <= threshold) / len(outside)
    raise AssertionError


@given(scores, scores)
def test_detection_is_what_its_definitions_say(inside, outside):
    found = detection(inside, outside)
    assert math.isclose(found["auroc"], pairs_won(inside, outside), abs_tol=1e-12)
    assert math.isclose(found["aupr_out"], average_precision(outside.tolist(), inside.tolist()), abs_tol=1e-12)
    assert math.isclose(found["aupr_in"], average_precision((-inside).tolist(), (-outside).tolist()), abs_tol=1e-12)
    assert math.isclose(found["fpr95"], passing_for_the_data(inside, outside), abs_tol=1e-12)


@given(scores, scores)
def test_detection_knows_the_order_of_scores_alone(inside, outside):
    found = detection(inside, outside)
    for same in (detection(np.exp(inside), np.exp(outside)), detection(inside[::-1], np.roll(outside, 1))):
        assert all(math.isclose(same[name], found[name], abs_tol=1e-12) for name in found)
    assert math.isclose(detection(outside, inside)["auroc"], 1 - found["auroc"], abs_tol=1e-12)
    assert math.isclose(detection(inside, inside)["auroc"], 0.5, abs_tol=1e-12)


@given(log_probs())
def test_uncertainty_is_what_its_definitions_say(given_log_probs):
    found = uncertainties(given_log_probs)
    members, samples, classes = given_log_probs.shape

    def entropy(probs):
        return sum(-p * math.log(p) for p in probs if p > 0)

    for n in range(samples):
        probs = [[math.exp(given_log_probs[m, n, c]) for c in range(classes)] for m in range(members)]
        mean = [sum(member[c] for member in probs) / members for c in range(classes)]
        assert math.isclose(found["entropy"][n], entropy(mean), abs_tol=1e-9)
        assert math.isclose(found["max_probability"][n], 1 - max(mean), abs_tol=1e-12)
        if members == 1:
            assert set(found) == {"entropy", "max_probability"}
            continue
        information = entropy(mean) - sum(map(entropy, probs)) / members
        assert math.isclose(found["mutual_information"][n], information, abs_tol=1e-9)
        spread = sum((probs[m][c] - mean[c]) ** 2 for m in range(members) for c in range(classes)) / members
        assert math.isclose(found["variance"][n], spread, abs_tol=1e-12)


@given(log_probs(least_members=2))
def test_uncertainty_has_its_bounds_and_no_order(given_log_probs):
    found = uncertainties(given_log_probs)
    members, _, classes = given_log_probs.shape
    assert (found["entropy"] <= math.log(classes) + 1e-9).all()
    assert (found["max_probability"] <= 1 - 1 / classes + 1e-9).all()
    assert (found["mutual_information"] <= np.minimum(found["entropy"], math.log(members)) + 1e-9).all()
    assert all((score >= -1e-15).all() for score in found.values())
    changed = uncertainties(given_log_probs[::-1, :, ::-1])
    for name, score in found.items():
        assert np.allclose(changed[name], score, rtol=0, atol=1e-12)
