"""What is fitted on which samples, and what becomes of members that predict no numbers."""

import math

import numpy as np
import pytest
import torch
from shifted import SYNTHETIC, finished

from dist_dash.analysis.shift import scoring
from dist_dash.analysis.shift.corruptions import chosen, corrupted
from dist_dash.analysis.shift.measurement import Measurement, as_shift_json
from dist_dash.analysis.shift.ood_sets import built_in
from dist_dash.analysis.shift.scoring import Temperatures, averaged, scored
from dist_dash.analysis.shift.values import values_of
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import RunFailed
from dist_dash.recipe.recipe import Loader

TWO = ["gaussian_noise", "contrast"]


def measurement_of(run, samples=None, seed=0, loader=None, data=None, ensemble=None):
    data = data or run.data()
    return Measurement(
        ensemble or run.ensemble(), data, values_of(data, seed), samples, seed, loader or Loader(batch_size=7)
    )


def all_of(measurement, corruptions="gaussian_noise,contrast", severities=(1, 4), sets=()):
    return as_shift_json(measurement, chosen(corruptions), severities, sets, lambda text: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return FinishedRun(finished(tmp_path_factory.mktemp("shifted") / "run", 3, *SYNTHETIC))


# -- scoring -----------------------------------------------------------------------------------------------------------


def some_predictions(members=3, n=40, classes=4):
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.full(classes, 0.5), (members, n)))
    labels = np.array([rng.choice(classes, p=probs / probs.sum()) for probs in np.exp(log_probs).mean(0)])
    return log_probs.astype(np.float32), labels


def test_calibrated_scores_are_those_of_the_given_temperatures():
    log_probs, labels = some_predictions()
    found = scored(log_probs, labels, Temperatures(2.0, [0.5, 3.0, 1.0]), 0)
    predictors = [*zip(found["members"], log_probs.astype(np.float64), (0.5, 3.0, 1.0), strict=True)]
    mean = np.log(np.exp(log_probs.astype(np.float64)).mean(0))
    for scores, log_p, temperature in [*predictors, (found["ensemble"], mean, 2.0)]:
        nll = brier = 0.0
        for row, label in zip(log_p, labels, strict=True):
            powers = [math.exp(value / temperature) for value in row]
            probs = [power / sum(powers) for power in powers]
            nll -= math.log(probs[label]) / len(labels)
            brier += sum((p - (c == label)) ** 2 for c, p in enumerate(probs)) / len(labels)
        assert scores["cal_nll"] == pytest.approx(nll)
        assert scores["cal_brier"] == pytest.approx(brier)
        assert scores["temperature"] == temperature
        assert {name for name in scores if name.startswith("cal_")} >= {"cal_nll", "cal_brier", "cal_ece"}
    unscaled = found["members"][2]
    assert all(unscaled[f"cal_{name}"] == pytest.approx(unscaled[name]) for name in ("nll", "brier", "ece"))
    for name, value in found["member_mean"].items():
        assert value == pytest.approx(sum(member[name] for member in found["members"]) / 3)
    assert found["samples"] == 40
    assert "pairwise" not in found["diversity"]
    assert found["diversity"]["disagreement"] > 0


def test_temperatures_minimise_the_nll_of_what_they_are_fitted_on():
    log_probs, labels = some_predictions()
    found = Temperatures.fitted(log_probs, labels)

    def nll(temperatures):
        scores = scored(log_probs, labels, temperatures, 0)
        return np.array([scores["ensemble"]["cal_nll"], *(member["cal_nll"] for member in scores["members"])])

    best = nll(found)
    for factor in (0.9, 0.99, 1.01, 1.1):
        other = Temperatures(found.ensemble * factor, [t * factor for t in found.members])
        assert (nll(other) > best).all()


def test_without_samples_there_is_no_temperature():
    log_probs, labels = some_predictions()
    found = Temperatures.fitted(log_probs[:, :0], labels[:0])
    assert found == Temperatures(None, [None] * 3)
    scores = scored(log_probs, labels, found, 0)
    for one in (scores["ensemble"], scores["member_mean"], *scores["members"]):
        assert one["cal_nll"] is one["temperature"] is None
        assert one["nll"] > 0


def test_means_go_by_name():
    assert averaged([{"a": 1, "b": {"c": 2.0}}, {"a": 2, "b": {"c": 4.0}}]) == {"a": 1.5, "b": {"c": 3.0}}
    assert averaged([{"a": 1, "b": None}, {"a": 2, "b": 3}]) == {"a": 1.5, "b": None}


# -- the measurement ---------------------------------------------------------------------------------------------------


def test_entries_are_the_scores_of_corrupted_samples(run):
    measurement = measurement_of(run)
    found = all_of(measurement)
    ensemble, data = run.ensemble(), run.data()
    values = values_of(data, 0)
    for name in TWO:
        for severity in (1, 4):
            entry = found["corrupted"][name][str(severity)]
            right = [0] * 4
            surprise = [0.0] * 4
            for index in measurement.reported.indices.tolist():
                sample = corrupted(data.test.evaluation(index), values, chosen(name)[0], severity, 0, index)
                said = ensemble.predict(sample[None])
                label = int(data.test.labels[index])
                for place, probs in enumerate([said.probs[0], *said.member_probs[:, 0]]):
                    right[place] += int(probs.argmax()) == label
                    surprise[place] -= math.log(float(probs[label]))
            n = len(measurement.reported)
            predictors = [entry["ensemble"], *entry["members"]]
            assert [one["accuracy"] for one in predictors] == pytest.approx([r / n for r in right])
            assert [one["nll"] for one in predictors] == pytest.approx([s / n for s in surprise], rel=1e-4)
            assert entry["samples"] == n == 15
    clean = found["clean"]
    assert clean["ensemble"]["nll"] != found["corrupted"][TWO[0]]["1"]["ensemble"]["nll"]


def test_means_over_corruptions(run):
    found = all_of(measurement_of(run))
    for severity in ("1", "4"):
        entries = [found["corrupted"][name][severity] for name in TWO]
        for part in ("ensemble", "member_mean", "diversity"):
            for name, value in found["mean"][severity][part].items():
                given = [entry[part][name] for entry in entries]
                assert value is None if None in given else value == pytest.approx(sum(given) / 2)
    for who in ("ensemble", "member_mean"):
        errors = [1 - found["corrupted"][name][s][who]["accuracy"] for name in TWO for s in ("1", "4")]
        assert found["mean_corruption_error"][who] == pytest.approx(sum(errors) / 4)


def test_how_samples_are_read_changes_nothing(run):
    whole, single, processes = (
        all_of(measurement_of(run, loader=loader), sets=())
        for loader in (Loader(batch_size=64), Loader(batch_size=1), Loader(batch_size=4, workers=2))
    )
    for other in (single, processes):
        for name in TWO:
            ours, theirs = (x["corrupted"][name]["4"]["ensemble"] for x in (whole, other))
            assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-5)
            assert ours["accuracy"] == theirs["accuracy"]


def test_temperatures_come_from_clean_samples_that_are_not_reported(run, monkeypatch):
    fits = []
    real = scoring.fit_temperature

    def counted(log_probs, labels):
        fits.append((log_probs, labels))
        return real(log_probs, labels)

    monkeypatch.setattr(scoring, "fit_temperature", counted)
    measurement = measurement_of(run)
    all_of(measurement)
    assert len(fits) == 4  # ensemble and three members, once
    data, ensemble = run.data(), run.ensemble()
    fitting = sorted(set(range(30)) - set(measurement.reported.indices.tolist()))
    said = ensemble.predict(np.stack([data.test.evaluation(i) for i in fitting]))
    expected = [said.probs.log(), *said.member_log_probs]
    for (log_probs, labels), known in zip(fits, expected, strict=True):
        assert np.allclose(log_probs, known.numpy(), atol=1e-4)
        assert labels.tolist() == data.test.labels[fitting].tolist()


def test_labels_of_reported_samples_do_not_move_temperatures(run):
    measurement = measurement_of(run)
    data = run.data()
    data.test.labels = data.test.labels.copy()
    data.test.labels[measurement.reported.indices] = (data.test.labels[measurement.reported.indices] + 1) % 4
    other = measurement_of(run, data=data)
    assert other.temperatures == measurement.temperatures
    assert other.clean["ensemble"]["nll"] != measurement.clean["ensemble"]["nll"]
    rest = np.setdiff1d(np.arange(30), measurement.reported.indices)
    data.test.labels[rest] = (data.test.labels[rest] + 1) % 4
    assert measurement_of(run, data=data).temperatures != measurement.temperatures


def test_a_validation_split_is_what_temperatures_are_fitted_on(tmp_path):
    run = FinishedRun(finished(tmp_path / "run", 2, *SYNTHETIC, "--labels.validation=0.25"))
    measurement = measurement_of(run)
    assert measurement.fitted_on == "10 clean validation samples"
    assert len(measurement.reported) == measurement.clean["samples"] == len(measurement.test) == 30
    data = run.data()
    said = run.ensemble().predict(np.stack([data.validation.evaluation(i) for i in range(10)]))
    expected = Temperatures.fitted(said.member_log_probs.numpy().astype(np.float32), data.validation.labels)
    assert measurement.temperatures.ensemble == pytest.approx(expected.ensemble, rel=1e-4)


def test_a_single_sample_is_reported_and_not_calibrated(run):
    measurement = measurement_of(run, samples=1)
    found = all_of(measurement, sets=built_in(measurement.test, measurement.values, 0))
    assert found["samples"] == 1
    assert found["fitted_on"] == "no samples, hence none"
    assert found["clean"]["ensemble"]["cal_nll"] is None
    assert found["mean"]["4"]["member_mean"]["cal_nll"] is None
    assert len(found["ood"]["sets"]) == 3


def test_detection_uses_all_chosen_test_samples(run):
    measurement = measurement_of(run)
    sets = built_in(measurement.test, measurement.values, 0)
    found = all_of(measurement, sets=sets)["ood"]
    assert found["samples"] == 30
    assert [one["samples"] for one in found["sets"]] == [30] * 3
    # The data against themselves: chance, up to what batches of another make do to the last digits.
    same = measurement.against(type(sets[0])("same", "the same", measurement.test))
    assert same["ensemble"]["entropy"]["auroc"] == pytest.approx(0.5, abs=0.01)
    entropies = []
    for split in (measurement.test, sets[2].split):
        probs = run.ensemble().predict(np.stack([split.evaluation(i) for i in range(30)])).probs.numpy()
        entropies.append([-sum(p * math.log(p) for p in row if p > 0) for row in probs])
    won = sum((o > i) + (o == i) / 2 for i in entropies[0] for o in entropies[1]) / 900
    assert found["sets"][2]["ensemble"]["entropy"]["auroc"] == pytest.approx(won)


def test_members_that_predict_nan_are_left_out_and_named(run):
    ensemble = run.ensemble()
    with torch.no_grad():
        next(ensemble.networks[1].parameters()).fill_(math.nan)
    measurement = measurement_of(run, ensemble=ensemble)
    found = all_of(measurement, severities=[1], sets=built_in(measurement.test, measurement.values, 0))
    assert found["left_out"] == [1]
    assert found["clean"]["left_out"] == found["corrupted"]["contrast"]["1"]["left_out"] == [1]
    assert len(found["clean"]["members"]) == 2
    healthy = measurement_of(run).clean
    assert found["clean"]["members"][1] == pytest.approx(healthy["members"][2])
    for network in ensemble.networks:
        with torch.no_grad():
            next(network.parameters()).fill_(math.nan)
    with pytest.raises(RunFailed, match="every member predicts NaN"):
        measurement_of(run, ensemble=ensemble)


def test_a_member_that_only_corruption_makes_non_finite(run):
    log_probs, labels = some_predictions()
    log_probs[1, 3] = np.nan
    found = scored(log_probs, labels, Temperatures(1.0, [0.5, 1.0, 2.0]), 0)
    assert found["left_out"] == [1]
    assert [member["temperature"] for member in found["members"]] == [0.5, 2.0]
    with pytest.raises(RunFailed):
        scored(np.full((2, 3, 4), np.nan), labels[:3], Temperatures(1.0, [1.0, 1.0]), 0)
