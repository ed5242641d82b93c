import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from dist_dash.errors import BadInput
from dist_dash.evaluation.average import ensemble_log_probs
from dist_dash.evaluation.diversity import mean_of_pairs, pairwise_kl
from dist_dash.evaluation.scores import scores
from dist_dash.evaluation.summary import evaluate, table

COIN = np.full((1, 3, 2), -np.log(2))


def some_predictions(members: int, classes: int = 10, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(members)
    log_probs = np.log(generator.dirichlet(np.ones(classes), size=(members, n))).astype(np.float32)
    return log_probs, generator.integers(classes, size=n)


def rendered(evaluation: dict) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(table(evaluation))
    return console.file.getvalue()


@pytest.mark.parametrize("members", [1, 3])
def test_the_file_has_its_public_form(members):
    log_probs, labels = some_predictions(members)
    found = json.loads(json.dumps(evaluate(log_probs, labels, "test", 7)))
    assert set(found) == {"ensemble", "members", "member_mean", "diversity", "split", "samples", "seed"}
    assert (found["split"], found["samples"], found["seed"]) == ("test", 50, 7)
    exact = log_probs.astype(np.float64)
    assert found["members"] == [scores(member, labels) for member in exact]
    assert found["ensemble"] == scores(ensemble_log_probs(exact), labels)
    assert set(found["ensemble"]) == {"accuracy", "top5", "nll", "brier", "ece"}
    for name, mean in found["member_mean"].items():
        assert mean == pytest.approx(sum(member[name] for member in found["members"]) / members)
    assert np.shape(found["diversity"]["pairwise"]["kl"]) == (members, members)
    assert found["diversity"]["kl"] == mean_of_pairs(pairwise_kl(exact))
    assert (found["diversity"]["disagreement"] is None) == (members == 1)


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
    json.dumps(evaluate(log_probs, np.array([0, 1]), "test", 0), allow_nan=False)


@pytest.mark.parametrize("members", [1, 3])
def test_the_table_shows_every_row_and_figure(members):
    log_probs, labels = some_predictions(members)
    evaluation = evaluate(log_probs, labels, "validation", 0)
    lines = rendered(evaluation).splitlines()
    assert "validation split, 50 samples" in lines[0]
    shown = {name: next(line for line in lines if name in line) for name in ("member mean", "ensemble")}
    shown |= {f"member {i}": next(line for line in lines if f"member {i}" in line) for i in range(members)}
    found = {"member mean": evaluation["member_mean"], "ensemble": evaluation["ensemble"]}
    found |= {f"member {i}": member for i, member in enumerate(evaluation["members"])}
    for name, line in shown.items():
        assert f"{found[name]['accuracy']:.2%}" in line
        for figure in ("nll", "brier", "ece"):
            assert f"{found[name][figure]:.4f}" in line
    if members > 1:
        pairwise = np.array(evaluation["diversity"]["pairwise"]["disagreement"])
        assert f"{pairwise[0, 1:].mean():.2%}" in shown["member 0"]
        assert f"{evaluation['diversity']['disagreement']:.2%}" in shown["member mean"]
