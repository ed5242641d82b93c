"""What must not take an ensemble down with it, or must not do so silently: disks, ranks, members, a stolen folder."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import assert_same_run, finish, lines_of, start, until
from tests.support.ranks import LIMIT, Ranks

QUICK = "--engine=Torch"


def sets(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step_*"))


def complaints(ranks: Ranks, rank: int) -> list[str]:
    """What a rank says of its end; nothing else may be there but words on the way."""
    lines = [line for line in ranks.output(rank).splitlines() if line]
    assert all(line.startswith(("dist-dash: ", "continuing ")) for line in lines), ranks.output(rank)
    return [line for line in lines if line.startswith("dist-dash: ")]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("limit", "reason"), [(0, "No space left on device"), (9000, "File too large")])
def test_a_full_disk_on_one_rank(limit: int, reason: str, tmp_path: Path, undisturbed: Path) -> None:
    disturbed, sign = tmp_path / "disturbed", tmp_path / "sign"
    engine = ["--engine=tests.e2e.faults.FullDisk", f"--engine.sign={sign}", f"--engine.limit={limit}"]
    sign.touch()
    ranks = start(disturbed, 3, 3, *engine)
    assert ranks.results() == [("value", 1)] * 3
    (line,) = complaints(ranks, 0)
    part = rf"{re.escape(str(disturbed))}/checkpoints/\.step_00000015\.\w+\.partial/member_01/replica_00\.pt"
    assert line.startswith("dist-dash: checkpoint of step 15: ")
    assert reason in line
    assert re.search(part, line)
    assert line.endswith("(rank 1, member 1)")
    assert [complaints(ranks, rank) for rank in (1, 2)] == [[], []]
    assert sets(disturbed) == [5, 10]
    assert not list(disturbed.rglob("*.partial"))
    sign.unlink()
    finish(disturbed, 3, 3, *engine)
    assert_same_run(disturbed, undisturbed)


def struck(run: Path, orders: str, *arguments: str) -> Ranks:
    file = run.with_name("orders")
    file.write_text(orders)
    return start(run, 3, 3, "--engine=tests.e2e.faults.Struck", f"--engine.orders={file}", *arguments)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three members that nothing happened to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run, 3, 3, QUICK)
    return run


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank(victim: int, tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    ranks = struck(run, f"{victim} 12 {signal.SIGKILL}")
    results = ranks.results()
    assert results == [("killed", 9) if rank == victim else ("value", 1) for rank in range(3)]
    for rank in {0, 1, 2} - {victim}:
        (line,) = complaints(ranks, rank)
        assert "step 12: an exchange did not complete; " in line
        assert f"missing: member {victim} (rank {victim}, " in line
        assert line.endswith(", last seen at step 12)")
        assert line.count("member") == 1
    assert f"missing: member {victim} (rank {victim}, " in (run / "FAILED").read_text()
    assert sets(run) == [5, 10]
    finish(run, 3, 3, "--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / 'orders'}")
    assert_same_run(run, undisturbed)


def test_a_hung_rank(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ranks = struck(run, f"0 12 {signal.SIGSTOP}", "--checks.deadline=10")
    try:
        until_ended(ranks, [1, 2])  # the default deadline is twice as long as this takes at most
        for rank in (1, 2):
            (line,) = complaints(ranks, rank)
            assert "step 12: an exchange did not complete; missing: member 0 (rank 0, " in line
            assert line.endswith(", last seen at step 12)")
            assert line.count("member") == 1
        assert "missing: member 0 (rank 0, " in (run / "FAILED").read_text()
    finally:
        ranks.signal(signal.SIGKILL, [0])
    assert ranks.results() == [("killed", 9), ("value", 1), ("value", 1)]
    assert sets(run) == [5, 10]


def until_ended(ranks: Ranks, which: list[int], deadline: float = LIMIT) -> None:
    end = time.monotonic() + deadline
    for rank in which:
        ranks.processes[rank].join(max(0, end - time.monotonic()))
        assert not ranks.processes[rank].is_alive(), f"rank {rank} goes on; rank {which[0]}: {ranks.output(which[0])}"


def losses(run: Path) -> list[list[Any]]:
    return [line["loss"] for line in lines_of(run) if line["kind"] == "train"]


def test_a_member_that_is_sick_for_too_long_ends_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sick = ["--engine=tests.e2e.faults.Sick", "--engine.first=7", "--engine.steps=4", "--checks.max_skipped=4"]
    ranks = start(run, 3, 3, *sick)
    assert ranks.results() == [("value", 1)] * 3
    (line,) = complaints(ranks, 0)
    assert line.startswith("dist-dash: member 1: no finite gradient for 4 updates in a row")
    assert [complaints(ranks, rank) for rank in (1, 2)] == [[], []]
    assert sets(run) == [5, 10]


def test_a_member_that_recovers_does_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sick = ["--engine=tests.e2e.faults.Sick", "--engine.first=7", "--engine.steps=3", "--checks.max_skipped=4"]
    finish(run, 3, 3, *sick)
    found = losses(run)
    assert len(found) == 30
    for step, (first, second, third) in enumerate(found):
        assert first is not None
        assert third is not None
        assert (second is None) == (7 <= step < 10)  # JSON has no NaN
    assert json.loads((run / "evaluation.json").read_text())["ensemble"]["nll"] < 2.5


def test_a_learning_rate_that_explodes_ends_the_run_by_name(tmp_path: Path) -> None:
    ranks = start(tmp_path / "run", 2, 2, QUICK, "--optimizer.lr=1e30", "--checks.max_skipped=3")
    assert ranks.results() == [("value", 1)] * 2
    (line,) = complaints(ranks, 0)
    assert "no finite gradient for 3 updates in a row; lower its learning rate" in line


def test_a_folder_that_another_run_has_taken_over_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ranks = start(run, 2, 2, QUICK, "--max_steps=100000", "--checkpoints.every_steps=200")
    until(lambda: sets(run), ranks)
    owner = {"token": "another", "host": "node7", "pid": 12, "job": "9.1"}
    (run / "owner.json").write_text(json.dumps(owner))
    before = files(run / "checkpoints")
    results = ranks.results()
    assert results == [("value", 1)] * 2, ranks.output(0)
    (line,) = complaints(ranks, 0)
    assert f"{run} was taken over by process 12 on node7, job 9.1; this run leaves it alone" in line
    after = files(run / "checkpoints")
    assert {name: after.get(name) for name in before} == before
    assert not list(run.rglob("*.partial"))
    assert json.loads((run / "owner.json").read_text()) == owner
    assert not (run / "DONE").exists()
    assert not (run / "CONTINUE").exists()


def test_ranks_that_never_come_are_waited_for_until_the_deadline(tmp_path: Path) -> None:
    from dist_dash.commands.cli import main
    from tests.e2e.runs import SMALL

    alone = ["train", *SMALL, QUICK, f"--run={tmp_path / 'run'}", "--checks.deadline=2"]
    ranks = Ranks(1, main, alone, environment={"WORLD_SIZE": "2"})
    assert ranks.results() == [("value", 1)]
    (line,) = complaints(ranks, 0)
    assert line.endswith("the 2 ranks did not find each other within 2 s; missing: member 1 (rank 1)")


def test_a_device_that_decides_makes_the_same_run(tmp_path: Path) -> None:
    """Skipped updates, too many of them in a row, and a resume amid them."""
    sick = ["--engine=tests.e2e.faults.Sick", "--engine.first=3", "--engine.steps=5", "--optimizer.fused=true"]
    host, device = tmp_path / "host", tmp_path / "device"
    finish(host, 2, 2, *sick)
    ranks = start(device, 2, 2, *sick, "--engine.late=true", "--checks.max_skipped=3")
    assert ranks.results() == [("value", 1)] * 2
    assert "member 1: no finite gradient for 3 updates in a row" in complaints(ranks, 0)[0]
    assert sets(device) == [5]
    finish(device, 2, 2, *sick, "--engine.late=true")
    assert_same_run(device, host)
    assert [line["skipped"][1] for line in lines_of(device) if line["kind"] == "train"][2:9] == [0, 1, 1, 1, 1, 1, 0]
