"""Uncertainty of single samples, and detection by it: against hand-computed cases."""

import math

import numpy as np
import pytest

from dist_dash.analysis.shift.ood import ALONE, TEXTS, detection, judged, uncertainties

LN2 = math.log(2)


def logs(*probs):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probs, dtype=np.float64))


def test_members_that_contradict_each_other():
    found = uncertainties(logs([[1, 0]], [[0, 1]]))
    assert found["entropy"] == pytest.approx([LN2])
    assert found["max_probability"] == pytest.approx([0.5])
    assert found["mutual_information"] == pytest.approx([LN2])  # each is sure: all that is unknown is which to believe
    assert found["variance"] == pytest.approx([0.5])  # ¼ for each class


def test_members_that_agree_to_know_nothing():
    found = uncertainties(logs([[0.5, 0.5]], [[0.5, 0.5]]))
    assert found["entropy"] == pytest.approx([LN2])
    assert found["mutual_information"] == pytest.approx([0], abs=1e-12)
    assert found["variance"] == pytest.approx([0])


def test_members_that_are_sure_and_agree():
    found = uncertainties(logs([[0, 1, 0]], [[0, 1, 0]], [[0, 1, 0]]))
    assert {name: scores.tolist() for name, scores in found.items()} == {name: [0.0] for name in TEXTS}


def test_one_member_has_no_others_to_differ_from():
    found = uncertainties(logs([[0.25, 0.75], [0.5, 0.5]]))
    assert tuple(found) == ALONE
    assert found["entropy"] == pytest.approx([0.25 * math.log(4) + 0.75 * math.log(4 / 3), LN2])
    assert found["max_probability"] == pytest.approx([0.25, 0.5])


def test_two_sets_apart():
    assert detection(np.array([1.0, 2, 3]), np.array([4.0, 5])) == {
        "auroc": 1.0,
        "aupr_out": 1.0,
        "aupr_in": 1.0,
        "fpr95": 0.0,
    }


def test_two_sets_the_wrong_way_round():
    found = detection(np.array([4.0, 5]), np.array([1.0, 2, 3]))
    assert found["auroc"] == 0
    assert found["fpr95"] == 1
    assert found["aupr_out"] == pytest.approx((1 / 3 + 2 / 4 + 3 / 5) / 3)


def test_all_tied_is_chance():
    found = detection(np.full(30, 0.25), np.full(10, 0.25))
    assert found["auroc"] == 0.5
    assert found["aupr_out"] == pytest.approx(10 / 40)
    assert found["aupr_in"] == pytest.approx(30 / 40)
    assert found["fpr95"] == 1  # no threshold keeps 95 % of the data without keeping all the rest


def test_fpr95_keeps_19_of_20():
    inside = np.arange(20.0)  # 19 of 20 are ≤ 18
    assert detection(inside, np.array([18.5, 18.5, 30, 17.0]))["fpr95"] == 0.25
    assert detection(inside, np.array([18.0, 18.5, 30, 17.0]))["fpr95"] == 0.5  # 18 passes as the data's own 18 does


def test_the_entry_of_a_set():
    rng = np.random.default_rng(0)
    inside, outside = (np.log(rng.dirichlet(np.ones(4) * a, (3, n))) for a, n in ((0.3, 40), (5, 25)))
    scores = [[uncertainties(x), *(uncertainties(m[None]) for m in x)] for x in (inside, outside)]
    found = judged(*scores)
    assert found["samples"] == 25
    for name in TEXTS:
        ours, theirs = uncertainties(inside)[name], uncertainties(outside)[name]
        assert found["ensemble"][name] == detection(ours, theirs)
        histogram = found["histograms"][name]
        for part, values in (("in", ours), ("out", theirs)):
            for low, high, share in zip(histogram["edges"], histogram["edges"][1:], histogram[part], strict=False):
                last = high == histogram["edges"][-1]
                count = sum(1 for v in values if low <= v < high or (last and v == high))
                assert share == pytest.approx(count / len(values))
        assert sum(histogram["in"]) == pytest.approx(1)
        roc = found["roc"][name]
        assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(found["ensemble"][name]["auroc"])
    assert set(found["member_mean"]) == set(ALONE)
    alone = [
        detection(uncertainties(i[None])["entropy"], uncertainties(o[None])["entropy"])
        for i, o in zip(inside, outside, strict=True)
    ]
    for key, value in found["member_mean"]["entropy"].items():
        assert value == pytest.approx(sum(one[key] for one in alone) / 3)
    assert found["member_mean"]["entropy"] != found["ensemble"]["entropy"]


def test_the_entry_for_one_member():
    member = np.log(np.random.default_rng(0).dirichlet(np.ones(3), (1, 9)))
    scores = [uncertainties(member)] * 2
    found = judged(scores, scores)
    assert found["ensemble"]["mutual_information"] is None
    assert found["ensemble"]["variance"] is None
    assert found["ensemble"]["entropy"]["auroc"] == 0.5
    assert set(found["roc"]) == set(found["histograms"]) == set(ALONE)
    assert found["member_mean"]["entropy"] == found["ensemble"]["entropy"]


def test_long_curves_are_thinned_without_moving_the_ends():
    rng = np.random.default_rng(0)
    scores = [[{name: rng.random(3000) for name in ALONE}] * 2 for _ in "io"]
    roc = judged(*scores)["roc"]["entropy"]
    assert len(roc["fpr"]) == len(roc["tpr"]) <= 200
    assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0, 0, 1, 1)
