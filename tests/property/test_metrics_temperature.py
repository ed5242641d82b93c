"""Temperature scaling: the best temperature, fitted on samples that no score is computed from."""

from io import StringIO

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from dist_dash.errors import BadInput
from dist_dash.metrics import blocks, temperature
from dist_dash.metrics.accuracy import aac, accuracy, brier, nll
from dist_dash.metrics.calibration import calibrated_halves, cross_fitted, ece, fit_temperature, halves, scaled
from dist_dash.metrics.mixture import ensemble_log_probs
from dist_dash.metrics.partition import Direct, Expanded
from dist_dash.metrics.summary import evaluate, table
from dist_dash.metrics.table import temperature_remarks
from dist_dash.metrics.temperature import INFORMATION, LEAST, MOST, remark


def made_up(seed, members=1, samples=40, classes=5, sharpness=2.0, signal=2.0):
    """Predictions `[members, N, C]` that are more often right than not, and labels `[N]`."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=samples)
    logits = generator.standard_normal((members, samples, classes)) + signal * np.eye(classes)[labels]
    return log_softmax(sharpness * logits, axis=-1), labels


@st.composite
def predictions(draw):
    log_probs, labels = made_up(
        draw(st.integers(0, 2**32)),
        samples=draw(st.integers(2, 60)),
        classes=draw(st.integers(2, 8)),
        sharpness=draw(st.sampled_from([0.05, 0.3, 1.0, 4.0, 30.0])),
        signal=draw(st.sampled_from([-3.0, 0.0, 1.0, 4.0])),
    )
    if draw(st.booleans()):
        log_probs = log_probs.astype(np.float32)
    if draw(st.booleans()):  # classes of probability 0, sometimes the label's
        zeros = np.random.default_rng(len(labels)).random(log_probs.shape) < 0.2
        zeros &= log_probs < log_probs.max(-1, keepdims=True)
        log_probs = log_softmax(np.where(zeros, -np.inf, log_probs), axis=-1)
    return log_probs[0], labels


# -- the fit -----------------------------------------------------------------------------------------------------------


@given(predictions())
def test_the_fitted_temperature_has_the_least_nll(case):
    log_probs, labels = case
    found = fit_temperature(log_probs, labels)
    assert LEAST <= found <= MOST

    def loss(log_temperature):
        return nll(log_softmax(log_probs.astype(np.float64) / np.exp(log_temperature), axis=1), labels)

    bounds = np.log([LEAST, MOST])
    peer = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    grid = np.linspace(*bounds, 200)
    best = min([peer.x, *grid, 0.0], key=loss)
    if found == 1 and loss(0.0) > loss(best) + 1e-10:
        # Surer predictions are better here, but that tells nothing of other samples.
        assert best < 0
        assert information(log_probs, labels, np.exp(best)) < 1.02 * INFORMATION
    else:
        assert loss(np.log(found)) <= loss(best) + 1e-10
        assert found >= 1 or information(log_probs, labels, found) >= 0.999 * INFORMATION


def information(log_probs, labels, at):
    """Fisher's information on log T: β² times the variances of d, of all samples whose label is possible."""
    found = 0.0
    for row, label in zip(log_probs.astype(np.float64), labels, strict=True):
        if np.isfinite(row[label]):
            found += naive_partition(row, 1 / at)[3] / at**2
    return found


def test_a_split_without_an_error_makes_nothing_surer():
    """64 samples, all right with NLL 0.17: of others 5 % are wrong, each of which T = 0.05 makes 20 times as costly."""
    log_probs, labels = np.log(np.tile([[0.84, 0.1, 0.06]], (1000, 1))), np.zeros(1000, int)
    labels[64::20] = 1
    found = fit_temperature(log_probs[:64], labels[:64])
    assert found == 1
    after = scaled(log_probs[64:], found)
    assert nll(after, labels[64:]) == nll(scaled(log_probs[64:], 1.0), labels[64:])
    result = evaluate(log_probs[None, :64], labels[:64], "test", 0)
    assert result["ensemble"]["cal_nll"] == pytest.approx(result["ensemble"]["nll"])
    said = result["temperature_remarks"]["ensemble"]
    assert said == "of 10 fitted, 10 left at 1 (nothing is gained, or too few errors tell how sure to be)"
    shown = Console(width=80, file=StringIO())
    shown.print(table(result))
    assert "Temperature of member 0: of 10 fitted, 10 left at 1" in shown.file.getvalue().replace("\n", " ")


@pytest.mark.parametrize("signal", [2.5, 3.5, 5.0])
@pytest.mark.parametrize("sharpness", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("samples", [16, 32, 64, 256])
def test_calibration_never_makes_the_nll_of_other_samples_much_worse(samples, sharpness, signal):
    costs = []
    for seed in range(40):
        log_probs, labels = made_up(seed, samples=samples + 1000, classes=10, sharpness=sharpness, signal=signal)
        found = fit_temperature(log_probs[0, :samples], labels[:samples])
        other, theirs = log_probs[0, samples:], labels[samples:]
        costs.append(nll(scaled(other, found), theirs) - nll(scaled(other, 1.0), theirs))
    assert np.mean(costs) < 0.05
    assert np.max(costs) < 0.5


def test_a_temperature_on_a_bound_is_told():
    assert remark([1.2, 0.7]) is None
    assert remark([]) is None
    assert remark([LEAST, 1.3, MOST, MOST]) == "of 4 fitted, 1 at the lower bound, 0.05; 2 at the upper bound, 20"
    wrong = np.log(np.repeat([[0.9, 0.1]], 8, 0))
    found = evaluate(wrong[None], np.ones(8, int), "test", 0)
    assert temperature_remarks({**found, "left_out": [0]})[1] == (
        "Temperature of member 1: of 10 fitted, 10 at the upper bound, 20."
    )


@given(predictions())
def test_scaling_never_costs_on_the_fitting_samples_and_never_changes_a_choice(case):
    log_probs, labels = case
    after = scaled(log_probs, fit_temperature(log_probs, labels))
    assert nll(after, labels) <= nll(scaled(log_probs, 1.0), labels)
    np.testing.assert_array_equal(after.argmax(1), log_probs.argmax(1))
    assert accuracy(after, labels) == accuracy(log_probs, labels)
    np.testing.assert_allclose(np.exp(after).sum(1), 1, atol=1e-12)


@given(predictions(), st.floats(LEAST, MOST))
def test_scaled_is_the_softmax_of_the_divided_logarithms(case, at):
    log_probs, _ = case
    expected = log_softmax(log_probs.astype(np.float64) / at, axis=1)
    np.testing.assert_allclose(scaled(log_probs, at), expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32), st.floats(0.5, 2.0))
def test_the_temperature_undoes_a_sharpening(seed, factor):
    log_probs, labels = made_up(seed, samples=200, signal=1.0)
    once = fit_temperature(log_probs[0], labels)
    assume(0.2 < once < 5)
    assert fit_temperature(log_softmax(factor * log_probs[0], axis=1), labels) == pytest.approx(factor * once, rel=1e-8)


def test_a_temperature_that_is_known_is_found():
    generator = np.random.default_rng(3)
    logits = 2 * generator.standard_normal((20_000, 6))
    labels = np.array([generator.choice(6, p=np.exp(row)) for row in log_softmax(logits, axis=1)])
    assert fit_temperature(log_softmax(3 * logits, axis=1), labels) == pytest.approx(3, rel=0.03)


def test_two_samples_by_hand():
    """Confidence 0.9 in both, right in one: 2 log(1 + e^-βd) + βd is least at equal probabilities; the bound is nearer.

    Of three samples of which two are right the best confidence is 2/3: e^-βd = 1/2 with d = log 9.
    """
    row = np.log([[0.9, 0.1]])
    assert fit_temperature(np.repeat(row, 2, 0), np.array([0, 1])) == MOST
    assert fit_temperature(np.repeat(row, 3, 0), np.array([0, 0, 1])) == pytest.approx(np.log(9) / np.log(2), rel=1e-9)


@pytest.mark.parametrize(("label", "bound"), [(0, 1), (1, MOST)])
@pytest.mark.parametrize("confidence", [0.6, 0.999, 1.0])
def test_an_optimum_at_infinity_ends_at_the_bound_and_one_at_0_is_not_taken(label, bound, confidence):
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.repeat([[confidence, 1 - confidence]], 7, 0))
    expected = 1.0 if confidence == 1 else bound  # where there is nothing to gain, nothing changes
    assert fit_temperature(log_probs, np.full(7, label)) == expected


def test_where_float64_shows_no_gain_nothing_changes():
    """All right with log-odds 45: log(1 + e^−45) is 0 already."""
    assert fit_temperature(np.array([[0.0, -45.0]] * 7), np.zeros(7, int)) == 1


def test_predictions_that_say_nothing_stay_as_they_are():
    uniform = np.full((9, 4), -np.log(4))
    assert fit_temperature(uniform, np.arange(9) % 4) == 1
    np.testing.assert_array_equal(scaled(uniform, 7.0), uniform)


def test_neighbours_in_float64_keep_their_order():
    row = np.array([[-1.0, np.nextafter(-1.0, 0), -1.0]])
    for at in (0.3, 0.7, 1.9, 17.0):
        assert scaled(row, at).argmax() == 1


# -- halves ------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 50), st.integers(1, 6), st.integers(0, 99))
def test_halves_are_halves(samples, splits, seed):
    found = halves(samples, splits, seed)
    assert found.shape == (splits, samples)
    assert (np.sort(found, 1) == np.repeat([0, 1], [samples // 2, samples - samples // 2])).all()
    np.testing.assert_array_equal(found, halves(samples, splits, seed))


def test_splits_differ():
    assert len({tuple(split) for split in halves(30, 5, 0)}) == 5
    assert (halves(30, 5, 0) != halves(30, 5, 1)).any()


@given(predictions())
def test_no_half_is_scored_with_a_temperature_of_its_own(case):
    log_probs, labels = case
    before = list(calibrated_halves(log_probs, labels, 2, 0))
    assert len(before) == 4
    for place, (temperature_, part, indices) in enumerate(before):
        rest = np.setdiff1d(np.arange(len(labels)), indices)
        assert temperature_ == fit_temperature(log_probs[rest], labels[rest])
        np.testing.assert_array_equal(part, scaled(log_probs[indices], temperature_))
        changed = labels.copy()
        changed[indices] = (changed[indices] + 1) % log_probs.shape[1]
        assert list(calibrated_halves(log_probs, changed, 2, 0))[place][0] == temperature_
    for one, other in (before[:2], before[2:]):
        assert sorted([*one[2], *other[2]]) == list(range(len(labels)))
    whole = cross_fitted(log_probs, labels, 0)
    for _, part, indices in before[:2]:
        np.testing.assert_array_equal(whole[indices], part)


def test_a_lone_sample_has_no_other_half():
    log_probs, labels = made_up(0, samples=1)
    np.testing.assert_array_equal(cross_fitted(log_probs[0], labels), log_probs[0])
    with pytest.raises(BadInput, match=r"^samples: 1 is not allowed; it must be 2 or more"):
        halves(1)
    with pytest.raises(BadInput, match=r"^samples: 0 is not allowed"):
        fit_temperature(log_probs[0, :0], labels[:0])


# -- calibrated scores -------------------------------------------------------------------------------------------------


def expected_scores(log_probs, labels):
    """The mean over ten halves of every score of the other half's predictions; and of the temperatures."""
    found = []
    for used, part, indices in calibrated_halves(log_probs, labels):
        y = labels[indices]
        masses = ece(part, y), ece(part, y, equal_mass=True)
        found.append([nll(part, y), brier(part, y), *masses, aac(part, y), used])
    assert len(found) == 10
    names = ("cal_nll", "cal_brier", "cal_ece", "cal_ece_mass", "cal_aac", "temperature")
    return dict(zip(names, np.mean(found, axis=0), strict=True))


@pytest.mark.parametrize("samples", [2, 3, 41, 200])
@pytest.mark.parametrize("sharpness", [0.4, 3.0])
def test_calibrated_scores_are_those_of_the_halves(samples, sharpness):
    log_probs, labels = made_up(samples, members=2, samples=samples, sharpness=sharpness)
    found = evaluate(log_probs, labels, "test", 0)
    for own, member in zip(
        [found["ensemble"], *found["members"]], [ensemble_log_probs(log_probs), *log_probs], strict=True
    ):
        for name, value in expected_scores(member, labels).items():
            assert own[name] == pytest.approx(value, rel=1e-8, abs=1e-10), name


# -- polynomials instead of passes -------------------------------------------------------------------------------------


@given(predictions(), st.floats(LEAST, MOST), st.lists(st.floats(-0.04, 0.04), min_size=1, max_size=3))
def test_polynomials_equal_their_definition_within_their_radius(case, at, away):
    log_probs, _ = case
    top = log_probs.max(1).astype(np.float64)
    centre = 1 / at
    beta = np.repeat(centre * (1 + 0.999 * np.array(away))[:, None], len(log_probs), 1)
    direct, expanded = Direct(log_probs, top), Expanded(log_probs, top, centre)
    assert expanded.covers(beta)
    assert not expanded.covers(1.05 * centre * np.ones((1, 1)))
    for ours, theirs in zip(expanded.logs(beta), direct.logs(beta), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    for k, (ours, theirs) in enumerate(zip(expanded.slopes(beta), direct.slopes(beta), strict=True), 1):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10 * at**k)


def naive_partition(row, beta):
    weights = np.exp(beta * (row - row.max()))
    d = np.where(weights > 0, row - row.max(), 0)
    mean = (weights * d).sum() / weights.sum()
    return np.log(weights.sum()), np.log((weights**2).sum()), mean, (weights * (d - mean) ** 2).sum() / weights.sum()


@given(predictions(), st.floats(LEAST, MOST))
def test_the_definition_is_the_definition(case, at):
    log_probs, _ = case
    direct = Direct(log_probs, log_probs.max(1).astype(np.float64))
    beta = np.full((1, len(log_probs)), 1 / at)
    found = np.stack([*direct.logs(beta), *direct.slopes(beta)])[:, 0].T
    expected = [naive_partition(row, 1 / at) for row in log_probs.astype(np.float64)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_large_data_take_the_polynomials_and_give_the_same(monkeypatch):
    log_probs, labels = made_up(1, members=2, samples=3000, classes=7, signal=1.0, sharpness=3.0)
    passes = evaluate(log_probs, labels, "test", 0)
    used = []
    monkeypatch.setattr(temperature, "_LARGE", 0)
    monkeypatch.setattr(temperature, "_FEW", 1000)
    monkeypatch.setattr(temperature, "Expanded", lambda *given: used.append(1) or Expanded(*given))
    polynomials = evaluate(log_probs, labels, "test", 0)
    assert len(used) >= 3
    for ours, theirs in zip(
        [polynomials["ensemble"], *polynomials["members"]], [passes["ensemble"], *passes["members"]], strict=True
    ):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("signal", [0.0, 1.0, 9.0])
def test_halves_that_are_far_apart_take_passes_after_all(monkeypatch, signal):
    log_probs, labels = made_up(4, samples=30, signal=signal)
    expected = expected_scores(log_probs[0], labels)
    monkeypatch.setattr(temperature, "_LARGE", 0)
    monkeypatch.setattr(temperature, "_FEW", 5)
    found = evaluate(log_probs, labels, "test", 0)["members"][0]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-8, abs=1e-10), name


@pytest.mark.parametrize("block", [1, 64, 10**6])
def test_neither_blocks_nor_threads_matter(monkeypatch, block):
    log_probs, labels = made_up(2, members=3, samples=300, classes=11)
    before = evaluate(log_probs.astype(np.float32), labels, "test", 0)
    monkeypatch.setattr(blocks, "VALUES", block)
    lone = evaluate(log_probs.astype(np.float32), labels, "test", 0)
    monkeypatch.setattr(blocks, "cores", lambda: 4)
    assert evaluate(log_probs.astype(np.float32), labels, "test", 0) == lone  # to the bit
    for name, value in before["ensemble"].items():
        assert lone["ensemble"][name] == pytest.approx(value, rel=1e-12), name
    for name in ("kl", "mutual_information", "error_correlation"):
        assert lone["diversity"][name] == pytest.approx(before["diversity"][name], rel=1e-11), name
