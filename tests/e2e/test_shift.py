"""A trained run under corruption, and against data of another kind."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from dist_dash.analysis.shift.corruptions import CORRUPTIONS, corrupted
from dist_dash.analysis.shift.samples import divided
from dist_dash.analysis.shift.values import values_of
from dist_dash.commands.shift import shift_command
from dist_dash.data import Digits
from dist_dash.ensembles.ensemble import load_ensemble
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.files import read_json
from dist_dash.report import shift_pictures as shift
from tests.e2e.runs import finish

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("shifted") / "run"
    finish(run, 2, 2, "--engine=Torch", "--max_steps=120")
    return run


def test_a_trained_ensemble_from_end_to_end(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    assert shift_command([str(run), "--json"]) == 0
    assert time.process_time() - start < 20
    found = json.loads(capsys.readouterr().out)
    assert found == read_json(run / "shift.json", "run")
    assert len(found["corrupted"]) >= 10

    # Stronger corruption, worse predictions.
    errors = [1 - found["mean"][severity]["ensemble"]["accuracy"] for severity in "12345"]
    assert 1 - found["clean"]["ensemble"]["accuracy"] < errors[0] < errors[2] < errors[4]
    assert found["mean_corruption_error"]["ensemble"] == pytest.approx(sum(errors) / 5)

    # One entry again, sample by sample, its temperature by a search of its own.
    data, ensemble = FinishedRun(run).data(), load_ensemble(run)
    fitting, reported, _ = divided(data, None, 0)
    assert not set(fitting.indices.tolist()) & set(reported.indices.tolist())

    def said(pixels: list[np.ndarray]) -> np.ndarray:
        return ensemble.predict(np.stack(pixels)).probs.numpy()

    def nll(probs: np.ndarray, labels: np.ndarray, temperature: float) -> float:
        powers = probs ** (1 / temperature)
        return float(-np.log((powers / powers.sum(1, keepdims=True))[np.arange(len(labels)), labels]).mean())

    clean = said([data.test.evaluation(i) for i in fitting.indices.tolist()])
    temperatures = np.exp(np.linspace(math.log(0.1), math.log(10), 4001))
    best = min(temperatures, key=lambda t: nll(clean, fitting.labels, t))
    assert found["clean"]["ensemble"]["temperature"] == pytest.approx(best, rel=0.002)
    values, jpeg = values_of(data, 0), CORRUPTIONS["jpeg_compression"]
    ids = reported.indices.tolist()
    probs = said([corrupted(data.test.evaluation(i), values, jpeg, 3, 0, i) for i in ids])
    entry = found["corrupted"]["jpeg_compression"]["3"]["ensemble"]
    assert entry["accuracy"] == pytest.approx((probs.argmax(1) == reported.labels).mean())
    assert entry["nll"] == pytest.approx(nll(probs, reported.labels, 1.0), rel=1e-4)
    assert entry["cal_nll"] == pytest.approx(nll(probs, reported.labels, best), rel=1e-3)


def test_digits_against_noise(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x=x)
    arguments = [str(run), "--corruptions=fog", "--severities=1", "--ood", str(tmp_path / "noise.npz"), "--json"]
    assert shift_command(arguments) == 0
    (only,) = json.loads(capsys.readouterr().out)["ood"]["sets"]
    ensemble = load_ensemble(run)
    surest = [
        1 - ensemble.predict(pixels).probs.max(1).values.numpy()
        for pixels in (np.stack([Digits().load().test.evaluation(i) for i in range(449)]), x)
    ]
    won = sum((o > i) + (o == i) / 2 for i in surest[0] for o in surest[1]) / (449 * 60)
    assert only["ensemble"]["max_probability"]["auroc"] == pytest.approx(won, abs=1e-3)


def test_the_run_has_its_pictures(run: Path) -> None:
    assert shift_command([str(run), "--samples=40", "--severities=1,5"]) == 0
    for draw in (shift.severity, shift.corruptions, shift.detection):
        assert draw(FinishedRun(run)).data
