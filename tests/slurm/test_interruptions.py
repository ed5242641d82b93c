"""Whatever Slurm or its machines do to a run: it goes on in the same folder, to the bits of the undisturbed run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.runs import finish
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import STEPS, SlurmRun

EVERY = 20
"""Steps between periodic checkpoints."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    run = SlurmRun(SlurmCluster(), path)
    run.hold.unlink()
    finish(path, 2, 2, *run.recipe)
    return path


@pytest.fixture
def run(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> SlurmRun:
    evidence.append(tmp_path)
    return SlurmRun(cluster, tmp_path / "run")


def user_signal(run: SlurmRun) -> None:
    run.cluster.run("scancel", "--signal=USR2", run.job)


def preemption(run: SlurmRun) -> None:
    run.cluster.preempt(seconds=2)


@pytest.mark.parametrize("strike", [user_signal, preemption])
def test_told_to_make_room_it_loses_nothing(
    strike: Callable[[SlurmRun], None], run: SlurmRun, undisturbed: Path
) -> None:
    run.submit().until_step(7)
    strike(run)
    saved = run.until("the save", run.folder.to_continue.exists)
    seen = run.step
    print(f"signal to complete checkpoint: {saved:.2f} s")
    run.until_state("PENDING")
    run.until_state("RUNNING")
    again = run.until("training again", lambda: run.step > seen)
    print(f"running again to training again: {again:.1f} s")
    run.until_done()
    assert run.continued_at() == [seen]
    assert any(f"stopped at step {seen}" in text for text in run.events())
    assert run.folder.owner()["continued"] == 1
    assert run.folder.owner()["job"] == f"{run.job}.1"
    run.same_as(undisturbed)


def test_the_time_limit_is_no_end(run: SlurmRun, undisturbed: Path) -> None:
    run.slow(1)
    run.submit("--time=1", "--warning=45")  # Slurm looks at the clock twice a minute: it comes when it comes
    run.until("the save", run.folder.to_continue.exists)
    seen = run.step
    run.until_state("PENDING")
    run.until_done()
    assert run.continued_at()[0] == seen < STEPS
    run.same_as(undisturbed)


def test_a_plain_requeue(run: SlurmRun, undisturbed: Path) -> None:
    run.submit().until_step(EVERY + 3)
    run.cluster.run("scontrol", "requeue", run.job)
    run.until_state("PENDING")
    run.until_done()
    (step,) = run.continued_at()
    assert step >= EVERY
    run.same_as(undisturbed)


def test_a_killed_rank(run: SlurmRun, undisturbed: Path) -> None:
    """Rank 0, of all: nobody of the run itself is left to ask for the requeue."""
    run.submit().until_step(EVERY + 3)
    os.kill(run.folder.owner()["pid"] if run.cluster.address == "127.0.0.1" else first_rank(run), signal.SIGKILL)
    run.until_state("PENDING")
    run.until_done()
    assert run.continued_at() == [EVERY]
    assert "attempt 1 of 3 since step 20 failed" in run.log()
    run.same_as(undisturbed)


def first_rank(run: SlurmRun) -> int:
    """The process of rank 0 as this machine numbers it."""
    for pid in run.cluster.tasks(run.cluster.nodes[0]):
        inside = Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].splitlines()[0].split()
        if int(inside[-1]) == run.folder.owner()["pid"]:
            return pid
    raise AssertionError("rank 0 is not there")


@pytest.mark.isolated
@pytest.mark.parametrize("which", [0, 1])
def test_a_node_loses_its_power(which: int, run: SlurmRun, undisturbed: Path) -> None:
    run.submit().until_step(EVERY + 3)
    run.cluster.drop_node(run.cluster.nodes[which])
    run.until_state("PENDING")
    run.cluster.restore_node(run.cluster.nodes[which])
    run.until_done()
    assert run.continued_at() == [EVERY]
    run.same_as(undisturbed)


def test_cancelled_for_good_and_continued_by_hand(run: SlurmRun, undisturbed: Path) -> None:
    run.submit().until_step(7)
    first = run.job
    run.cluster.run("scancel", first)
    run.until("the end of the job", lambda: not run.cluster.run("squeue", "-h"))
    seen = run.step
    assert run.folder.to_continue.read_text().strip() == "SIGTERM"
    run.submit()
    assert run.job != first
    run.until_done()
    assert run.continued_at() == [seen]
    run.same_as(undisturbed)
