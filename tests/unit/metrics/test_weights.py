"""Members that count unequally: every figure against loops from the definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_dash.errors import BadInput
from dist_dash.metrics.accuracy import nll
from dist_dash.metrics.mixture import ensemble_log_probs, mean_over_members, non_finite_members, normalised, variance
from dist_dash.metrics.predictions import load_predictions, save_predictions
from dist_dash.metrics.size_curve import size_curve, subsets_of
from dist_dash.metrics.summary import evaluate

WEIGHTS = [3.0, 0.5, 1.5]


def some_predictions(members: int = 3, n: int = 40, classes: int = 4) -> tuple[NDArray, NDArray]:
    generator = np.random.default_rng(1)
    log_probs = np.log(generator.dirichlet(np.full(classes, 0.6), size=(members, n)))
    return log_probs, generator.integers(classes, size=n)


def mean_by_loop(log_probs: NDArray, weights: list[float]) -> list[list[float]]:
    """`Σ_m w_m p_mnc / Σ_m w_m`."""
    members, n, classes = log_probs.shape
    return [
        [sum(weights[m] * math.exp(log_probs[m, s, c]) for m in range(members)) / sum(weights) for c in range(classes)]
        for s in range(n)
    ]


def entropy_by_loop(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row)


def test_the_ensemble_is_the_weighted_mean() -> None:
    log_probs, labels = some_predictions()
    found = evaluate(log_probs, labels, "test", 0, weights=WEIGHTS)
    mean = mean_by_loop(log_probs, WEIGHTS)
    n, total = len(labels), sum(WEIGHTS)
    np.testing.assert_allclose(np.exp(ensemble_log_probs(log_probs, normalised(WEIGHTS, 3))), mean, rtol=1e-12)
    assert found["weights"] == pytest.approx([weight / total for weight in WEIGHTS])
    surprise = -sum(math.log(row[label]) for row, label in zip(mean, labels, strict=True)) / n
    squares = sum((p - (c == label)) ** 2 for row, label in zip(mean, labels, strict=True) for c, p in enumerate(row))
    right = sum(row.index(max(row)) == label for row, label in zip(mean, labels, strict=True))
    assert found["ensemble"]["nll"] == pytest.approx(surprise, rel=1e-12)
    assert found["ensemble"]["brier"] == pytest.approx(squares / n, rel=1e-12)
    assert found["ensemble"]["accuracy"] == right / n
    own = [nll(member, labels) for member in log_probs]
    weighted = sum(w * one for w, one in zip(WEIGHTS, own, strict=True)) / total
    assert found["diversity"]["ambiguity"] == pytest.approx(weighted - surprise, rel=1e-9)
    entropies = [
        sum(w * entropy_by_loop(np.exp(log_probs[m, s]).tolist()) for m, w in enumerate(WEIGHTS)) / total
        for s in range(n)
    ]
    information = sum(entropy_by_loop(row) - one for row, one in zip(mean, entropies, strict=True)) / n
    assert found["diversity"]["mutual_information"] == pytest.approx(information, rel=1e-9)
    spread = [
        sum(w * (math.exp(log_probs[m, s, c]) - mean[s][c]) ** 2 for m, w in enumerate(WEIGHTS) for c in range(4))
        for s in range(n)
    ]
    np.testing.assert_allclose(variance(log_probs, normalised(WEIGHTS, 3)), np.array(spread) / total, rtol=1e-9)


def test_temperature_scaling_is_that_of_the_weighted_mean() -> None:
    log_probs, labels = some_predictions()
    found = evaluate(log_probs, labels, "test", 0, weights=WEIGHTS)["ensemble"]
    alone = evaluate(np.log(mean_by_loop(log_probs, WEIGHTS))[None], labels, "test", 0)["ensemble"]
    assert found == pytest.approx(alone, rel=1e-6)


def test_members_and_their_mean_have_no_weights() -> None:
    log_probs, labels = some_predictions()
    plain, weighted = evaluate(log_probs, labels, "test", 0), evaluate(log_probs, labels, "test", 0, weights=WEIGHTS)
    for part in ("members", "member_mean"):
        assert weighted[part] == plain[part]
    assert weighted["diversity"]["pairwise"] == plain["diversity"]["pairwise"]
    assert weighted["ensemble"] != plain["ensemble"]


@pytest.mark.parametrize("weights", [None, [1, 1, 1], [0.25, 0.25, 0.25]])
def test_equal_weights_are_none(weights: list[float] | None) -> None:
    log_probs, labels = some_predictions()
    found = evaluate(log_probs, labels, "test", 0, weights=weights)
    assert found == evaluate(log_probs, labels, "test", 0)
    assert "weights" not in found


def test_integer_weights_are_copies() -> None:
    log_probs, labels = some_predictions(2)
    copies = evaluate(log_probs[[0, 0, 0, 1]], labels, "test", 0)
    assert evaluate(log_probs, labels, "test", 0, weights=[3, 1])["ensemble"] == pytest.approx(copies["ensemble"])


def test_a_member_that_is_left_out_takes_its_weight_along() -> None:
    log_probs, labels = some_predictions()
    spoilt = log_probs.copy()
    spoilt[1, 3, 0] = np.nan
    found = evaluate(spoilt, labels, "test", 0, weights=WEIGHTS)
    assert found == {**evaluate(log_probs[[0, 2]], labels, "test", 0, weights=[3.0, 1.5]), "left_out": [1]}
    assert found["weights"] == pytest.approx([2 / 3, 1 / 3])


def test_smaller_ensembles_keep_the_weights_of_their_members() -> None:
    log_probs, labels = some_predictions()
    curve = size_curve(log_probs, labels, weights=normalised(WEIGHTS, 3))
    for one in curve:
        expected = []
        for subset in subsets_of(3, one.members, 100, 0):
            mean = mean_by_loop(log_probs[list(subset)], [WEIGHTS[m] for m in subset])
            expected.append(-sum(math.log(row[label]) for row, label in zip(mean, labels, strict=True)) / len(labels))
        assert one.nll == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def test_tiny_probabilities_keep_their_weights() -> None:
    log_probs = np.array([[[-800.0, 0.0]], [[-900.0, 0.0]]])
    found = ensemble_log_probs(log_probs, normalised([1, 3], 2))[0]
    assert found[0] == pytest.approx(-800 + math.log(0.25), abs=1e-9)
    assert np.isfinite(mean_over_members(np.ones((2, 3)), normalised([1e308, 1.7e308], 2))).all()


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 0], [1, 2, -1], [1, math.nan, 1], [1, math.inf, 1], ["a", 1, 1], 2])
def test_weights_that_are_none(weights: object) -> None:
    log_probs, labels = some_predictions()
    with pytest.raises(BadInput, match=r"^weights: .* is not allowed; it must be ") as caught:
        evaluate(log_probs, labels, "test", 0, weights=weights)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_file_keeps_weights_that_differ(tmp_path: Path) -> None:
    log_probs, labels = some_predictions()
    save_predictions(tmp_path / "p.npz", log_probs, labels, weights=normalised(WEIGHTS, 3))
    found = load_predictions(tmp_path / "p.npz", "predictions")
    assert found.weights == pytest.approx(np.array(WEIGHTS) / 5)
    with np.load(tmp_path / "p.npz") as file:
        np.testing.assert_allclose(file["probs"], mean_by_loop(log_probs, WEIGHTS), rtol=1e-6)
    save_predictions(tmp_path / "p.npz", log_probs, labels, [0], normalised(WEIGHTS, 3))
    with np.load(tmp_path / "p.npz") as file:
        np.testing.assert_allclose(file["probs"], mean_by_loop(log_probs[1:], WEIGHTS[1:]), rtol=1e-6)
    save_predictions(tmp_path / "p.npz", log_probs, labels)
    with np.load(tmp_path / "p.npz") as file:
        assert "weights" not in file
    assert load_predictions(tmp_path / "p.npz", "predictions").weights is None
    np.savez(tmp_path / "p.npz", log_probs=log_probs, labels=labels, weights=np.ones(2))
    with pytest.raises(BadInput, match=r"^predictions: weights: \[1\.0, 1\.0\] is not allowed"):
        load_predictions(tmp_path / "p.npz", "predictions")


def test_the_result_is_json() -> None:
    found = evaluate(*some_predictions(), "test", 0, weights=WEIGHTS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(("value", "expected"), [(np.nan, [1]), (np.inf, [1]), (-np.inf, []), (-1e30, [])])
def test_what_a_non_finite_member_is(value: float, expected: list[int]) -> None:
    log_probs, _ = some_predictions()
    log_probs[1, 5, 2] = value
    assert non_finite_members(log_probs) == expected
