"""The predictions of a few samples that a run keeps at every evaluation: which samples, and that they are the run's."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from complaints import complaint, names
from numpy.typing import NDArray

from dist_dash.data import Digits
from dist_dash.data.source import Splits, SubsetSplit, UnreadableSample
from dist_dash.ensembles.evaluation import Evaluated
from dist_dash.runs.folder import RunFolder
from tests.e2e.runs import SMALL, finish, start

BAD = 7
QUICK = [
    "--engine=Torch",
    "--model.hidden=8",
    "--loader.batch_size=320",
    "--max_steps=8",
    "--checkpoints.every_steps=3",
]


class Damaged(Digits):
    """Digits of which one test sample, of a smaller test split, cannot be read."""

    def load(self) -> Splits:
        class Test(SubsetSplit):
            def evaluation(self, index: int) -> np.ndarray:
                if index == BAD:
                    raise UnreadableSample(f"sample {index}", "it is damaged")
                return super().evaluation(index)

        splits = super().load()
        splits.test = Test(splits.test, np.arange(40))
        return splits


def held_out(samples: int, left_out: tuple[int, ...] = (), members: int = 2, seed: int = 0) -> Evaluated:
    """Predictions of a split of which some samples could not be read."""
    ids = np.setdiff1d(np.arange(samples), left_out)
    draw = np.random.default_rng(seed)
    log_probs = draw.normal(size=(members, len(ids), 3)).astype(np.float32)
    return Evaluated(samples, ids, log_probs, draw.integers(0, 3, len(ids)), {})


def kept(folder: RunFolder, step: int = 1) -> dict[str, NDArray[Any]]:
    with np.load(folder.trace_at(step), allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


# -- which samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "most"), [(40, 10), (40, 39), (40, 40), (40, 41), (1, 1), (3, 256), (1000, 256)])
def test_at_most_so_many_each_with_its_own_prediction(samples: int, most: int, folder: RunFolder) -> None:
    found = held_out(samples)
    found.keep_trace(folder, 1, most)
    trace = kept(folder)
    assert sorted(trace) == ["ids", "labels", "log_probs"]
    ids = trace["ids"]
    assert len(ids) == min(samples, most)
    assert list(ids) == sorted(set(ids))
    assert ids.min() >= 0
    assert ids.max() < samples
    assert trace["log_probs"].dtype == np.float32
    assert trace["log_probs"].shape == (2, len(ids), 3)
    for place, number in enumerate(ids):
        assert trace["labels"][place] == found.labels[number]
        assert (trace["log_probs"][:, place] == found.log_probs[:, number]).all()


def test_the_same_ones_at_every_step_and_in_every_run(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        held_out(500, seed=step).keep_trace(folder, step, 20)
    first, *others = (kept(folder, step) for step in (1, 2, 3))
    for other in others:
        assert (other["ids"] == first["ids"]).all()
        assert (other["log_probs"] != first["log_probs"]).any()
    assert len(first["ids"]) == 20
    assert np.ptp(first["ids"]) > 250  # from all over the split


def test_unreadable_ones_are_left_out_and_not_replaced(folder: RunFolder) -> None:
    held_out(100).keep_trace(folder, 1, 30)
    everyone = kept(folder)["ids"]
    gone = (int(everyone[3]), int(everyone[17]), next(n for n in range(100) if n not in everyone))
    found = held_out(100, gone)
    found.keep_trace(folder, 2, 30)
    trace = kept(folder, 2)
    assert set(trace["ids"]) == set(everyone) - set(gone)
    assert len(trace["ids"]) == 28
    for place, number in enumerate(trace["ids"]):
        assert trace["labels"][place] == found.labels[list(found.ids).index(number)]
    found.keep_trace(folder, 3, 100)
    assert set(kept(folder, 3)["ids"]) == set(range(100)) - set(gone)


def test_a_trace_is_complete_or_not_there(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out(10).keep_trace(folder, 1, 5)
    before = folder.trace_at(1).read_bytes()

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    for step in (1, 2):
        with pytest.raises(OSError, match=rf"No space left.*step_0000000{step}\.npz"):
            held_out(10).keep_trace(folder, step, 5)
    assert [path.name for path in folder.trace.iterdir()] == ["step_00000001.npz"]
    assert folder.trace_at(1).read_bytes() == before


def test_a_negative_number_is_refused() -> None:
    names(complaint([*SMALL, "--record.trace=-1"]), "record.trace", "-1", "a whole number ≥ 0")
    names(complaint([*SMALL, "--record.directions=-1"]), "record.directions", "-1", "a whole number ≥ 0")


# -- in runs -----------------------------------------------------------------------------------------------------------


def traces(run: Path) -> dict[int, dict[str, NDArray[Any]]]:
    folder = RunFolder(run)
    steps = sorted(int(path.stem.removeprefix("step_")) for path in folder.trace.glob("*"))
    return {step: kept(folder, step) for step in steps}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run, 2, 2, *QUICK)
    return run


def test_the_last_one_is_the_final_prediction(undisturbed: Path) -> None:
    """Without a validation split the test split is evaluated, here also after the last update."""
    found = traces(undisturbed)
    assert list(found) == [4, 8]
    assert len(found[4]["ids"]) == 256
    assert (found[4]["ids"] == found[8]["ids"]).all()
    final = np.load(undisturbed / "predictions.npz")
    assert len(final["labels"]) > 256
    assert (found[8]["log_probs"] == final["log_probs"][:, found[8]["ids"]]).all()
    assert (found[8]["labels"] == final["labels"][found[8]["ids"]]).all()
    assert (found[4]["log_probs"] != found[8]["log_probs"]).any()
    assert (found[4]["labels"] == found[8]["labels"]).all()


def test_replicas_and_their_number_do_not_matter(undisturbed: Path, tmp_path: Path) -> None:
    finish(tmp_path / "run", 4, 2, *QUICK, "--loader.batch_size=160", "--record.trace=50")
    found, other = traces(tmp_path / "run"), traces(undisturbed)
    final = np.load(tmp_path / "run/predictions.npz")
    assert (found[8]["log_probs"] == final["log_probs"][:, found[8]["ids"]]).all()
    assert len(found[8]["ids"]) == 50
    assert list(found) == list(other)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 3), (signal.SIGKILL, 5)])
def test_a_resumed_run_writes_the_same_ones(number: int, step: int, undisturbed: Path, tmp_path: Path) -> None:
    """Stopped before the evaluation that is due; and killed after one that is then done again."""
    run = tmp_path / "run"
    (tmp_path / "orders").write_text(f"1 {step} {number}")
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / 'orders'}"]
    ranks = start(run, 2, 2, *QUICK, *struck)
    results = ranks.results()
    assert results == [("value", 75)] * 2 or ("killed", 9) in results, ranks.output(0)
    assert list(traces(run)) == ([] if number == signal.SIGTERM else [4])
    finish(run, 2, 2, *QUICK, *struck)
    for name in ("step_00000004.npz", "step_00000008.npz"):
        assert (run / "trace" / name).read_bytes() == (undisturbed / "trace" / name).read_bytes()


def test_starting_over_leaves_no_old_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(run, 2, 2, *QUICK, "--labels.validation=0.2", "--record.trace=1000")
    found = traces(run)
    assert [len(trace["ids"]) for trace in found.values()] == [270, 270]  # of the validation split, all of it
    finish(run, 2, 2, *QUICK, "--fresh", "--max_steps=4", "--record.trace=3")
    assert [(step, len(trace["ids"])) for step, trace in traces(run).items()] == [(4, 3)]
    finish(run, 2, 2, *QUICK, "--fresh", "--record.trace=0")
    assert not (run / "trace").exists()


def test_unreadable_samples_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    damaged = ["--data=tests.unit.training.test_trace.Damaged", "--loader.on_bad_sample=skip", "--max_steps=4"]
    finish(run, 2, 2, *QUICK, *damaged)
    (trace,) = traces(run).values()
    assert list(trace["ids"]) == [number for number in range(40) if number != BAD]
    final = np.load(run / "predictions.npz")
    assert (trace["log_probs"] == final["log_probs"]).all()
    assert (trace["labels"] == final["labels"]).all()
