"""A finished or a stopped run trains on: as if it had been that long from the start, and said plainly where not."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from dist_dash.comparison.compared_run import read_run
from dist_dash.ensembles.finished import FinishedRun
from tests.e2e.runs import assert_same_run, finish, lines_of, start

BRIEF = ["--engine=Torch", "--max_steps=null", "--loader.batch_size=256", "--record.every=4", "--model.hidden=8"]
CONSTANT = [*BRIEF, "--schedule=Constant"]  # an epoch has 5 updates


def extended(run: Path, *arguments: str, status: int = 0, world: int = 2) -> str:
    """What rank 0 says, in one line."""
    ranks = start(run, world, world, *arguments, "--extend")
    assert ranks.results() == [("value", status)] * world, ranks.output(0)
    return " ".join(ranks.output(0).split())


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("long") / "run"
    finish(run, 2, 2, *CONSTANT, "--epochs=4")
    return run


@pytest.mark.parametrize("stopped", [False, True])
def test_an_extended_run_is_the_longer_run(stopped: bool, long: Path, tmp_path: Path) -> None:
    run, orders = tmp_path / "run", tmp_path / "orders"
    engine = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}"]
    if stopped:
        orders.write_text(f"1 6 {signal.SIGTERM}")
    ranks = start(run, 2, 2, *CONSTANT, *engine, "--epochs=2")
    assert ranks.results() == [("value", 75 if stopped else 0)] * 2
    (run / "flatness.json").write_text("{}")
    said = extended(run, *CONSTANT, *engine, "--epochs=4")
    step = 8 if stopped else 10
    assert "extended from 10 to 20 updates: Constant over 4 epochs instead of 2; the learning" in said
    assert f"the learning rate at step {step} stays at 0.05" in said
    assert_same_run(run, long)
    assert (run / "DONE").exists()
    assert not (run / "flatness.json").exists()
    manifest = json.loads(max(run.glob("checkpoints/step_*/manifest.json")).read_text())
    assert manifest["shared"]["extended"] == [{"step": step, "from": 10, "to": 20}]
    assert manifest["recipe"]["epochs"] == 4
    assert FinishedRun(run).recipe["epochs"] == 4
    assert read_run(run).settings["extended"] == f"[{{step: {step}, from: 10, to: 20}}]"
    assert "extended" not in read_run(long).settings
    before = (run / "DONE").stat().st_mtime_ns
    assert "is finished already" in extended(run, *CONSTANT, *engine, "--epochs=4")
    assert (run / "DONE").stat().st_mtime_ns == before


def test_another_schedule_is_said_and_recorded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(run, 1, 1, *BRIEF, "--method=SGD", "--epochs=2")
    said = extended(run, *BRIEF, "--method=SGD", "--epochs=3", world=1)
    assert "Cosine over 3 epochs instead of 2; the learning rate at step 10 rises from 0.001224 to 0.0125" in said
    events = [line["text"] for line in lines_of(run) if line["kind"] == "event"]
    assert any(text.startswith("extended from 10 to 15 updates") for text in events)
    rates = {line["step"]: line["learning_rate"][0] for line in lines_of(run) if line["kind"] == "train"}
    assert list(rates) == [4, 8, 12, 15]
    assert rates[12] > 5 * 0.001224


def test_what_cannot_be_extended_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    run, none = tmp_path / "run", tmp_path / "none"
    few = [*CONSTANT, "--method=SGD"]
    finish(run, 1, 1, *few, "--epochs=2", "--checkpoints.every_epochs=0", "--checkpoints.every_steps=0")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "owner.json"}
    assert "extend: " in (said := extended(run, *few, "--epochs=3", status=2, world=1))
    assert "keeps no checkpoint set to go on from; a run keeps one where checkpoints.every_epochs" in said
    said = extended(run, *few, "--epochs=3", "--seed=1", status=2, world=1)
    assert "was started with other settings (seed 0 → 1)" in said
    assert {path: path.read_bytes() for path in before} == before
    assert f"extend: {none} holds no run" in extended(none, *few, "--epochs=3", status=2, world=1)
    assert not none.exists()


def test_a_run_becomes_no_shorter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(run, 1, 1, *CONSTANT, "--method=SGD", "--epochs=2")
    said = extended(run, *CONSTANT, "--method=SGD", "--epochs=1", status=2, world=1)
    assert "extend: 5 updates are fewer than the 10 of the run" in said
    assert (run / "DONE").exists()
    (run / "DONE").unlink()
    ranks = start(run, 1, 1, *CONSTANT, "--method=SGD", "--epochs=3")
    assert ranks.results() == [("value", 2)]
    assert "(epochs 2 → 3); use another --run, --extend, or --fresh" in " ".join(ranks.output(0).split())
