"""What a finished run is good for: its table again, predictions of new samples, members of any architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_dash.commands.cli import main
from dist_dash.data import Digits
from dist_dash.ensembles.ensemble import load_ensemble
from dist_dash.ensembles.weight_cosines import weight_cosines
from dist_dash.errors import BadInput
from dist_dash.files import read_json
from dist_dash.metrics.summary import evaluate
from tests.e2e.pictures import Linear, vectors
from tests.e2e.runs import finish, lines_of, start

QUICK = ["--engine=Torch", "--max_steps=20"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    finish(run, 3, 3, *QUICK, "--record.tensorboard=true")
    return run


def close(ours: Any, theirs: Any) -> None:
    """Equal structure, names and whole numbers; numbers close."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for name in theirs:
            close(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    else:
        assert ours == theirs


def test_evaluate_computes_the_table_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = read_json(run / "evaluation.json", "run")
    assert len(written["members"]) == 3
    (run / "evaluation.json").unlink()
    assert main(["evaluate", str(run), "--json"]) == 0
    close(json.loads(capsys.readouterr().out), written)
    close(read_json(run / "evaluation.json", "run"), written)
    assert main(["evaluate", str(run)]) == 0
    table = capsys.readouterr().out
    for name, found in [("member 2", written["members"][2]), ("ensemble", written["ensemble"])]:
        (row,) = [line for line in table.splitlines() if name in line]
        assert f"{found['accuracy']:.2%}" in row
        assert f"{found['brier']:.4f}" in row


def test_the_predictions_of_a_run_are_those_of_its_table(run: Path) -> None:
    with np.load(run / "predictions.npz") as file:
        log_probs, labels = file["log_probs"], file["labels"]
    assert (log_probs.dtype, labels.dtype) == (np.float32, np.int64)
    assert log_probs.shape == (3, 449, 10)
    np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(labels, Digits().load().test.labels)
    cosines = weight_cosines(load_ensemble(run).networks)
    close(
        evaluate(log_probs, labels, "test", 0, weight_cosines=cosines),
        read_json(run / "evaluation.json", "run"),
    )


def test_a_loaded_ensemble_predicts_what_the_run_predicted(run: Path) -> None:
    test = Digits().load().test
    samples = np.stack([test.evaluation(index) for index in range(len(test))])
    prediction = load_ensemble(run).predict(samples)
    with np.load(run / "predictions.npz") as file:
        np.testing.assert_allclose(prediction.member_log_probs.numpy(), file["log_probs"], atol=1e-4)
    np.testing.assert_allclose(prediction.probs, prediction.member_probs.mean(0), atol=1e-12)


@pytest.mark.parametrize("labelled", [False, True])
def test_predict_writes_what_the_ensemble_says(run: Path, labelled: bool, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 255, (70, 1, 8, 8), dtype=np.uint8)
    labels = {"y": np.arange(70) % 10} if labelled else {}
    source, output = tmp_path / "x.npz", tmp_path / "p.npz"
    np.savez(source, x=samples, **labels)
    assert main(["predict", str(run), str(source), "--output", str(output), "--batch-size", "32"]) == 0
    expected = load_ensemble(run).predict(samples)
    with np.load(output) as file:
        assert set(file.files) == {"log_probs", "probs", *(["labels"] if labelled else [])}
        np.testing.assert_allclose(file["log_probs"], expected.member_log_probs, atol=1e-5)
        np.testing.assert_allclose(file["probs"], expected.probs, atol=1e-6)
        if labelled:
            np.testing.assert_array_equal(file["labels"], labels["y"])
    if labelled:
        assert main(["evaluate", "--predictions", str(output), "--json"]) == 0


def test_tensorboard_holds_every_value_of_the_record(run: Path) -> None:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    lines = [line for line in lines_of(run) if line["kind"] == "train"]
    for member in range(3):
        found = [(event.step, event.value) for event in board.Scalars(f"train/loss/{member:02d}")]
        assert found == [(line["step"], pytest.approx(line["loss"][member])) for line in lines]


# -- members of other kinds ------------------------------------------------------------------------------------------


def test_members_of_different_architectures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    models = [
        {"class_path": "MLP", "init_args": {"hidden": 8, "norm": "batch"}},
        {"class_path": "SmallCNN", "init_args": {"width": 4}},
        {"class_path": "Custom", "init_args": {"target": "tests.e2e.pictures:Linear", "kwargs": {"scale": 0.5}}},
    ]
    finish(run, 3, 3, *QUICK, f"--models={json.dumps(models)}")
    with pytest.raises(BadInput, match=r"--allow-code tests.e2e.pictures:Linear"):  # also in a run of one's own
        load_ensemble(run)
    ensemble = load_ensemble(run, allow_code=["tests.e2e.pictures:Linear"])
    kinds = [{type(module) for module in network.modules()} for network in ensemble.networks]
    assert [torch.nn.Conv2d in kind for kind in kinds] == [False, True, False]
    assert [Linear in kind for kind in kinds] == [False, False, True]
    samples = np.random.default_rng(0).integers(0, 255, (5, 1, 8, 8), dtype=np.uint8)
    prediction = ensemble.predict(samples)
    assert torch.isfinite(prediction.probs).all()
    raw = safetensors.numpy.load_file(run / "ensemble/member_02.safetensors")
    x = (samples.reshape(5, 64) / 255 - raw["normalise.mean"]) / raw["normalise.std"]
    logits = 0.5 * (x @ raw["net.layer.weight"].T + raw["net.layer.bias"])
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(prediction.member_log_probs[2], expected, atol=1e-4)
    with np.load(run / "predictions.npz") as file:
        assert file["log_probs"].shape == (3, 449, 10)


def test_fine_tuning_replaces_the_head_where_the_classes_differ(tmp_path: Path) -> None:
    first, second = tmp_path / "four", tmp_path / "six"
    finish(first, 2, 2, *QUICK, *vectors(tmp_path / "four.npz", 4), "--labels.noise=0")
    weights = first / "ensemble/member_01.safetensors"
    # A learning rate of almost nothing, so that what was taken over can be seen at the end.
    tune = [*vectors(tmp_path / "six.npz", 6, seed=1), "--labels.noise=0", f"--init={weights}", "--optimizer.lr=1e-12"]
    ranks = start(second, 2, 2, *QUICK, *tune)
    assert ranks.results() == [("value", 0)] * 2
    (said,) = [line for line in ranks.output(0).splitlines() if line.startswith("init: ")]
    assert "start anew" in said
    before = safetensors.numpy.load_file(weights)
    after = [safetensors.numpy.load_file(second / f"ensemble/member_{i:02d}.safetensors") for i in range(2)]
    heads = [name for name in before if before[name].shape != after[0][name].shape]
    assert len(heads) == 2
    assert all(name.removeprefix("net.") in said for name in heads)
    kept = [n for n in before if n.endswith((".weight", ".bias")) and n not in heads]
    assert kept
    for member in after:
        for name in kept:
            np.testing.assert_allclose(member[name], before[name], atol=1e-6, err_msg=name)
        assert {member[name].shape[0] for name in heads} == {6}
    assert not np.array_equal(after[0][heads[-1]], after[1][heads[-1]])
