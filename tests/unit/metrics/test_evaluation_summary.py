import json

import numpy as np
import pytest

from dist_dash.errors import BadInput
from dist_dash.metrics.accuracy import brier
from dist_dash.metrics.diversity import mean_of_pairs, pairwise_kl
from dist_dash.metrics.mixture import ambiguity, ensemble_log_probs, mutual_information
from dist_dash.metrics.scores import scores
from dist_dash.metrics.summary import evaluate

PLAIN = ["accuracy", "top5", "nll", "brier", "ece", "ece_mass", "aac", "clipped"]
CALIBRATED = ["cal_nll", "cal_brier", "cal_ece", "cal_ece_mass", "cal_aac", "temperature"]
COIN = np.full((1, 3, 2), -np.log(2))


def some_predictions(members: int, classes: int = 10, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(members)
    log_probs = np.log(generator.dirichlet(np.ones(classes), size=(members, n))).astype(np.float32)
    return log_probs, generator.integers(classes, size=n)


@pytest.mark.parametrize("members", [1, 3])
def test_the_file_has_its_public_form(members):
    log_probs, labels = some_predictions(members)
    found = json.loads(json.dumps(evaluate(log_probs, labels, "test", 7)))
    parts = {"ensemble", "members", "member_mean", "diversity", "split", "samples", "seed", "left_out"}
    assert set(found.pop("temperature_remarks", {"ensemble", "members"})) == {"ensemble", "members"}  # on a bound
    assert set(found) == parts
    assert found["left_out"] == []
    assert (found["split"], found["samples"], found["seed"]) == ("test", 50, 7)
    exact = log_probs.astype(np.float64)
    for own, member in zip([found["ensemble"], *found["members"]], [ensemble_log_probs(exact), *exact], strict=True):
        plain = scores(member, labels)
        assert {name: own[name] for name in plain} == pytest.approx(plain, rel=1e-12)
        assert list(own) == [*PLAIN, *CALIBRATED]
    for name, mean in found["member_mean"].items():
        assert mean == pytest.approx(sum(member[name] for member in found["members"]) / members)
    diversity = found["diversity"]
    assert np.shape(diversity["pairwise"]["kl"]) == (members, members)
    assert diversity["kl"] == pytest.approx(mean_of_pairs(pairwise_kl(exact)))
    assert (diversity["disagreement"] is None) == (members == 1)
    assert diversity["weight_cosine"] is None
    assert diversity["ambiguity"] == pytest.approx(ambiguity(exact, labels), abs=1e-12)
    assert diversity["ambiguity_brier"] == pytest.approx(ambiguity(exact, labels, brier), abs=1e-12)
    assert diversity["mutual_information"] == pytest.approx(mutual_information(exact).mean(), abs=1e-12)


def test_scores_under_way_are_not_calibrated():
    predictions = some_predictions(2)
    found, calibrated = evaluate(*predictions, "test", 0, calibrated=False), evaluate(*predictions, "test", 0)
    for own, other in ((found[part], calibrated[part]) for part in ("ensemble", "member_mean")):
        assert own == {name: other[name] for name in PLAIN}
    assert found["diversity"] == calibrated["diversity"]


def test_cosines_of_weights_are_taken_over():
    cosines = np.array([[1.0, 0.5], [0.5, 1.0]])
    diversity = evaluate(*some_predictions(2), "test", 0, weight_cosines=cosines)["diversity"]
    assert diversity["weight_cosine"] == 0.5
    assert diversity["pairwise"]["weight_cosine"] == cosines.tolist()


def test_top5_is_left_out_where_it_says_nothing():
    assert "top5" not in evaluate(*some_predictions(2, classes=5), "test", 0)["ensemble"]
    assert "top5" in evaluate(*some_predictions(2, classes=6), "test", 0)["ensemble"]


@pytest.mark.parametrize(
    ("log_probs", "labels"),
    [
        (COIN[0], np.zeros(3, int)),
        (COIN, np.zeros(4, int)),
        (COIN, np.zeros((3, 1), int)),
        (COIN[:, :0], np.zeros(0, int)),
        (COIN, np.array([0, 1, 2])),
        (COIN, np.array([0, -1, 1])),
    ],
)
def test_predictions_that_do_not_fit_are_refused_in_one_line(log_probs, labels):
    with pytest.raises(BadInput, match=r"^predictions: ") as caught:
        evaluate(log_probs, labels, "test", 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("log_probs", "labels"),
    [
        (np.full((1, 3, 2), np.nan), np.zeros(3, int)),
        (np.full((1, 3, 2), 0.5), np.zeros(3, int)),  # probabilities, not their logarithms
        (COIN, np.zeros(3)),  # labels that are no whole numbers
        (COIN[:0], np.zeros(3, int)),  # no member
        (np.full((1, 3, 2), "a"), np.zeros(3, int)),
    ],
)
def test_values_that_are_no_log_probabilities_are_refused(log_probs, labels):
    with pytest.raises(BadInput, match=r"^predictions: "):
        evaluate(log_probs, labels, "test", 0)


def test_a_probability_of_zero_counts_nothing():
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = pairwise_kl(np.log([[[1.0, 0.0]], [[0.5, 0.5]]]))
    assert kl[0, 1] == pytest.approx(np.log(2))


def test_the_file_is_json_also_for_an_impossible_label():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[1.0, 0.0], [1.0, 0.0]]])
    found = evaluate(log_probs, np.array([0, 1]), "test", 0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["ensemble"]["accuracy"] == 0.5
    assert 0 < found["ensemble"]["nll"] < float("inf")


# -- corners -----------------------------------------------------------------------------------------------------------


def test_one_sample_has_no_calibrated_scores():
    found = json.loads(json.dumps(evaluate(*some_predictions(2, n=1), "test", 0), allow_nan=False))
    for own in (found["ensemble"], found["member_mean"], *found["members"]):
        assert [own[name] for name in CALIBRATED] == [None] * 6
        assert own["aac"] == own["accuracy"]


def test_one_member_is_its_own_ensemble():
    found = evaluate(*some_predictions(1), "test", 0)
    assert found["ensemble"] == found["members"][0] == found["member_mean"]
    diversity = {name: value for name, value in found["diversity"].items() if name != "pairwise"}
    pairs = dict.fromkeys(("disagreement", "kl", "error_correlation", "weight_cosine"))
    assert diversity == {**pairs, "ambiguity": 0, "ambiguity_brier": 0, "mutual_information": 0}


def test_one_class_that_all_predict():
    """Two members, always class 0 with 0.7 and 0.9; 6 of 10 labels are 0. No label is of class 2."""
    log_probs = np.log([[[0.7, 0.2, 0.1]] * 10, [[0.9, 0.05, 0.05]] * 10])
    labels = np.repeat([0, 1], [6, 4])
    found = evaluate(log_probs, labels, "test", 0)
    assert [member["accuracy"] for member in found["members"]] == [0.6, 0.6]
    assert [member["aac"] for member in found["members"]] == pytest.approx([0.6, 0.6])
    assert [member["ece"] for member in found["members"]] == pytest.approx([0.1, 0.3])
    assert found["ensemble"]["ece_mass"] == pytest.approx(0.2)
    assert found["ensemble"]["brier"] == pytest.approx(
        0.6 * (0.04 + 0.125**2 + 0.075**2) + 0.4 * (0.64 + 0.875**2 + 0.075**2)
    )
    assert found["diversity"]["disagreement"] == 0
    assert found["diversity"]["error_correlation"] == pytest.approx(1)


def test_certain_predictions_are_finite_and_counted():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])
    found = json.loads(json.dumps(evaluate(log_probs, np.array([0, 1, 0]), "test", 0), allow_nan=False))
    assert [member["clipped"] for member in found["members"]] == [2, 1]
    assert found["ensemble"]["clipped"] == 1
    assert found["member_mean"]["clipped"] == 1.5
    assert found["members"][0]["nll"] == pytest.approx(2 * 708.396 / 3, rel=1e-5)
    assert found["members"][0]["temperature"] == 1  # nothing to gain
    assert found["members"][0]["cal_nll"] > 0


def test_half_precision_is_read_as_what_it_is():
    log_probs, labels = some_predictions(3, classes=1000, n=40)
    half = log_probs.astype(np.float16)
    found, exact = evaluate(half, labels, "test", 0), evaluate(half.astype(np.float64), labels, "test", 0)
    assert found == exact
    assert found["ensemble"]["nll"] == pytest.approx(
        evaluate(log_probs, labels, "test", 0)["ensemble"]["nll"], rel=1e-3
    )
    uniform = np.full((1, 3, 1000), -np.log(1000), np.float16)  # rounded, the probabilities add up to 1.0016
    assert evaluate(uniform, labels[:3], "test", 0)["ensemble"]["accuracy"] == np.mean(labels[:3] == 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_members_are_left_out_or_refused(value):
    log_probs, labels = some_predictions(4)
    log_probs[1, 7, 3] = log_probs[3, 0, 0] = value
    assert evaluate(log_probs, labels, "test", 0) == {
        **evaluate(log_probs[[0, 2]], labels, "test", 0),
        "left_out": [1, 3],
    }
    with pytest.raises(BadInput, match=r"^predictions: log_probs of members 1, 3 are not finite"):
        evaluate(log_probs, labels, "test", 0, strict=True)
    with pytest.raises(BadInput, match=r"^predictions: log_probs of every member are not finite"):
        evaluate(log_probs[[1, 3]], labels, "test", 0)


def test_what_is_refused_is_named():
    log_probs, labels = some_predictions(3)
    log_probs[2, 4] += np.log(1.5)
    with pytest.raises(BadInput, match=r"^predictions: log_probs of member 2, sample 4 .* add up to 1\.5; they must"):
        evaluate(log_probs, labels, "test", 0)
    log_probs[0, 0, 0] = np.nan  # left out, the others keep their numbers
    with pytest.raises(BadInput, match=r"member 2, sample 4"):
        evaluate(log_probs, labels, "test", 0)
    with pytest.raises(BadInput, match=r"^predictions: label 10 of sample 1 is not allowed; .* in 0…9$"):
        evaluate(log_probs, np.r_[0, 10, labels[2:]], "test", 0)
    with pytest.raises(BadInput, match=r"sample 0 are .* add up to 0; "):
        evaluate(np.full((1, 3, 2), -np.inf), np.zeros(3, int), "test", 0)
    with pytest.raises(BadInput, match=r"add up to inf; "):
        evaluate(np.full((1, 3, 2), 800.0), np.zeros(3, int), "test", 0)
