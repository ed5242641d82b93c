"""Ranks that stay alive between runs: the bits of cold ones, whatever breaks or stops them, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dist_dash.errors import RunFailed
from dist_dash.member.engine import Torch
from dist_dash.runs.preemption import StopRequest
from dist_dash.study.execute import Executor
from dist_dash.study.study_plan import PlannedRun
from dist_dash.study.warm import WarmRanks
from tests.e2e.runs import SMALL, assert_same_run, finish, step_of
from tests.e2e.studies import quick_ranks, when
from tests.support.ranks import LIMIT

SHORT = [*SMALL, "--engine=Torch", "--max_steps=12", "--loader.batch_size=128", "--labels.validation=0.2"]
SHORT += ["--members=2", "--checkpoints.every_steps=4"]
METHODS = {
    "sgd": ["--method=SGD", "--optimizer.nesterov=true"],
    "sam": ["--method=SAM", "--loader.workers=1", "--labels.mixup=0.2"],
    "dash": ["--method=DASH", "--method.gamma=0.2", "--deterministic=false", "--seed=3"],
}


class Failing(Torch):
    """An engine whose second rank fails alone, in the middle of things, while the others wait for it."""

    def step(self) -> None:
        super().step()
        if self.exchange.step == 5 and self.exchange.layout.rank == 1:
            raise RunFailed("its own trouble")


class Witness(Torch):
    """An engine that writes down whether torch is asked for deterministic kernels.

    Args:
        file: to which a line is added.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def step(self) -> None:
        super().step()
        with Path(self.file).open("a") as file:
            file.write(f"{torch.are_deterministic_algorithms_enabled()}\n")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with quick_ranks(monkeypatch, tmp_path):
        yield


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each method's run by processes of its own."""
    folder = tmp_path_factory.mktemp("cold")
    for name, arguments in METHODS.items():
        finish(folder / name, 2, 2, *SHORT, *arguments)
    return folder


def train(ranks: WarmRanks, run: Path, *arguments: str) -> int:
    return ranks.train([*SHORT, *arguments, f"--run={run}"], run.parent / "log")


def outcome(call: Callable[[], int]) -> str:
    try:
        return str(call())
    except RunFailed as error:
        return str(error)


def assert_same(ours: Path, theirs: Path) -> None:
    """Everything that a run leaves is the same, to the byte where it holds no times."""
    assert_same_run(ours, theirs)
    found = [{str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in (ours, theirs)]
    assert found[0] == found[1]
    exact = [name for name in found[0] if name.startswith(("ensemble/", "trace/")) or name == "evaluation.json"]
    assert len(exact) >= 5
    for name in [*exact, "predictions.npz", "recipe.yaml"]:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    environments = [json.loads((run / "environment.json").read_text()) for run in (ours, theirs)]
    unlike = {"commit": None, "blake2b": None}
    assert {**environments[0], **unlike} == {**environments[1], **unlike}


def test_warm_ranks_train_as_cold_ones_in_any_order(cold: Path, tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        for number, name in enumerate(["sgd", "sam", "dash", "dash", "sam", "sgd", "sgd"]):
            run = tmp_path / f"{number}-{name}"
            assert train(ranks, run, *METHODS[name]) == 0, (tmp_path / "log").read_text()
            processes = {process.pid for process in ranks._processes}
            assert_same(run, cold / name)
        assert train(ranks, run, *METHODS["sgd"]) == 0  # finished already
        assert {process.pid for process in ranks._processes} == processes
    assert f"{run} is finished already" in (tmp_path / "log").read_text()


def test_warm_ranks_hold_on_to_nothing(tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        held = []
        for number in range(5):
            assert train(ranks, tmp_path / f"{number}", "--method=DASH", "--max_steps=2") == 0
            own = [psutil.Process(process.pid) for process in ranks._processes]
            held.append([(rank.num_fds(), rank.num_threads()) for rank in own])
        assert held[0] == held[-1], held
        assert list(Path(ranks._folder.name).iterdir()) == []


def test_warm_ranks_forget_what_a_recipe_asked_of_torch(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    witness = ["--engine=tests.e2e.test_warm_ranks.Witness", f"--engine.file={seen}", "--members=1", "--max_steps=1"]
    with WarmRanks(1) as ranks:
        for number, asked in enumerate(["true", "false", "true"]):
            assert train(ranks, tmp_path / str(number), *witness, "--method=SGD", f"--deterministic={asked}") == 0
    assert seen.read_text().split() == ["True", "False", "True"]


def test_other_ranks_follow_bad_input_and_a_stop(cold: Path, tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        assert train(ranks, tmp_path / "a", "--method=DASH", "--method.rho=3") == 2
        assert train(ranks, tmp_path / "a", "--method=SGD", "--loader.batch_size=4096") == 2  # in the middle of things
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign/letter").touch()
        assert train(ranks, tmp_path / "foreign", "--method=SGD") == 2
        (tmp_path / "sign").write_text("1 5")
        held = ["--engine=tests.e2e.faults.Held", f"--engine.sign={tmp_path / 'sign'}", *METHODS["sgd"]]
        striking = when(lambda: step_of(tmp_path / "b") >= 5, lambda: os.kill(ranks._processes[1].pid, signal.SIGUSR2))
        assert train(ranks, tmp_path / "b", *held) == 75
        striking.join()
        (tmp_path / "sign").unlink()
        assert train(ranks, tmp_path / "b", *held) == 0
        assert_same_run(tmp_path / "b", cold / "sgd")
        assert not (tmp_path / "a").exists()
    log = (tmp_path / "log").read_text()
    assert "dist-dash: method.rho: no such field" in log
    assert "dist-dash: loader.batch_size: 4096 × " in log
    assert "SIGUSR2: stopped at step " in log


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_in_a_run_is_named(rank: int, cold: Path, tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.write_text(f"{rank} 6 {signal.SIGKILL}")
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}", *METHODS["sgd"], "--loader.workers=2"]
    with WarmRanks(2) as ranks:
        with pytest.raises(RunFailed, match=rf"^rank {rank} died \(exit status -9\)$"):
            train(ranks, tmp_path / "run", *struck)
        assert ranks._processes == []
        assert train(ranks, tmp_path / "run", *struck) == 0
        assert_same_run(tmp_path / "run", cold / "sgd")
        os.kill(ranks._processes[rank].pid, signal.SIGKILL)  # while nothing is to be done
        with pytest.raises(RunFailed, match=rf"^rank {rank} died \(exit status -9\)$"):
            train(ranks, tmp_path / "other", *METHODS["sgd"])
        assert train(ranks, tmp_path / "other", *METHODS["sgd"]) == 0
    assert_same(tmp_path / "other", cold / "sgd")


def test_a_rank_that_fails_alone_is_not_waited_for(cold: Path, tmp_path: Path) -> None:
    """It leaves, as a cold one does; the others do not wait until the deadline of ten minutes."""
    with WarmRanks(2) as ranks:
        began = time.monotonic()
        assert train(ranks, tmp_path / "run", *METHODS["sgd"], "--engine=tests.e2e.test_warm_ranks.Failing") == 1
        assert time.monotonic() - began < LIMIT
        assert train(ranks, tmp_path / "other", *METHODS["sgd"]) == 0
    assert_same(tmp_path / "other", cold / "sgd")
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("dist-dash: ")]
    assert len(said) == 2
    assert "dist-dash: rank 1: its own trouble" in said
    assert all("its own trouble" in line for line in said)


def test_a_stop_that_comes_before_the_ranks_is_not_lost(tmp_path: Path) -> None:
    with WarmRanks(2) as ranks:
        ranks.stop()
        ended = outcome(lambda: train(ranks, tmp_path / "run", "--method=SGD", "--max_steps=100000"))
    # In the latter case they had no handler for it yet.
    assert ended in {"75", "rank 0 died (exit status -15)", "rank 1 died (exit status -15)"}


def test_groups_start_their_ranks_at_the_same_time(tmp_path: Path) -> None:
    """What the ranks are to find in the environment is there for all of them, and gone afterwards."""
    before = dict(os.environ)
    statuses: list[int] = []

    def one(number: int) -> None:
        with WarmRanks(1) as ranks:
            arguments = [*SHORT, "--members=1", "--method=SGD", "--max_steps=1", f"--run={tmp_path / str(number)}"]
            statuses.append(ranks.train(arguments, tmp_path / "log"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 4
    assert dict(os.environ) == before


def test_the_executor_tries_a_killed_run_again(cold: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "orders").write_text(f"1 6 {signal.SIGKILL}")
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / 'orders'}"]
    runs = [
        PlannedRun("selection/a", (*SHORT, *METHODS["sgd"], *struck)),
        PlannedRun("selection/b", (*SHORT, *METHODS["dash"])),
    ]
    seen: list[str] = []
    with Executor(tmp_path, 2, 1, 1, StopRequest(), 2) as executor:
        assert executor.run(runs, lambda run: seen.append(run.name))
    assert seen == ["selection/a", "selection/b"]
    assert_same_run(tmp_path / "selection/a", cold / "sgd")
    assert_same(tmp_path / "selection/b", cold / "dash")
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "study: selection/a failed; trying again: rank 1 died (exit status -9)"
    assert said[1:] == ["study: 2 of 2 runs, about 0 min left; finished selection/b"]
