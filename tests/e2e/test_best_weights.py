"""The weights of the best validation score are the ones that are exported, and a run without progress ends early."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.runs import assert_same_run, finish, lines_of, start, step_of, until

# A rate at which the validation score soon gets worse; constant: a shorter run is the beginning of the longer one.
SETTINGS = [
    "--method=SGD",
    "--engine=Torch",
    "--optimizer.lr=0.6",
    "--labels.noise=0.4",
    "--labels.validation=0.2",
    "--schedule=Constant",
    "--max_steps=264",  # 8 epochs of 33 updates
    "--record.every=11",
]
BEST = [*SETTINGS, "--checkpoints.best=validation_nll"]


def validation_of(run: Path) -> dict[int, float]:
    """The ensemble's NLL on the validation split, by step."""
    lines = [line for line in lines_of(run) if line["kind"] == "eval"]
    assert {line["split"] for line in lines} == {"validation"}
    return {line["step"]: line["ensemble"]["nll"] for line in lines}


def weights_of(run: Path) -> list[dict[str, np.ndarray]]:
    return [safetensors.numpy.load_file(path) for path in sorted((run / "ensemble").glob("*.safetensors"))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of two replicas each."""
    path = tmp_path_factory.mktemp("best") / "run"
    finish(path, 4, 2, *BEST, "--loader.batch_size=16")
    return path


def test_the_exported_weights_are_those_of_the_best_evaluation(run: Path, tmp_path: Path) -> None:
    scores = validation_of(run)
    best = min(scores, key=lambda step: scores[step])
    assert best < max(scores)
    assert any(f"those of step {best}, the best" in line.get("text", "") for line in lines_of(run))
    finish(tmp_path / "until", 4, 2, *SETTINGS, f"--max_steps={best}", "--loader.batch_size=16")
    for ours, theirs in zip(weights_of(run), weights_of(tmp_path / "until"), strict=True):
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_without_progress_the_run_ends_early_also_after_a_stop(run: Path, tmp_path: Path) -> None:
    patient = [*BEST, "--checkpoints.patience=2"]
    finish(tmp_path / "one", 2, 2, *patient)
    scores = validation_of(tmp_path / "one")
    best = min(scores, key=lambda step: scores[step])
    assert max(scores) == best + 2 * 33
    assert max(scores) < 264
    assert any("ended after" in line.get("text", "") for line in lines_of(tmp_path / "one"))
    ranks = start(tmp_path / "other", 2, 2, *patient)
    until(lambda: step_of(tmp_path / "other") >= best + 33, ranks)
    ranks.signal(signal.SIGTERM)
    assert ranks.results() == [("value", 75)] * 2
    finish(tmp_path / "other", 2, 2, *patient)
    assert_same_run(tmp_path / "other", tmp_path / "one")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--checkpoints.best=validation_nll", "--labels.validation=0"], "checkpoints.best: 'validation_nll'"),
        (["--checkpoints.best=validation_nll", "--record.evaluate_every=0"], "record.evaluate_every: 0"),
        (["--checkpoints.patience=3"], "checkpoints.patience: 3"),
        (["--checkpoints.best=test_nll"], "checkpoints.best"),
    ],
)
def test_what_cannot_work_is_refused(options: list[str], says: str, tmp_path: Path) -> None:
    ranks = start(tmp_path / "run", 1, 1, *SETTINGS, *options)
    assert ranks.results() == [("value", 2)]
    assert says in ranks.output(0).strip().splitlines()[-1]
