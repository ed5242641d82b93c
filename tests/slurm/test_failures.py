"""A run that fails again and again is given up, and says why; one that gets on is not."""

from __future__ import annotations

import json
from pathlib import Path

from tests.slurm.cluster import SlurmCluster, until
from tests.slurm.jobs import Said, SlurmRun


class Doomed(SlurmRun):
    """Rank 1 is killed after update 25, in every life: an engine of the tests strikes as often as it is told to."""

    @property
    def recipe(self) -> list[str]:
        return [*super().recipe, "--engine=tests.slurm.doubles.StruckAgain", f"--engine.orders={self.hold}"]


def test_given_up_after_attempts_without_progress(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    run = Doomed(cluster, tmp_path / "run")
    run.hold.write_text("25 1 100")
    run.submit("--attempts=2")
    until("giving up", lambda: not cluster.run("squeue", "-h"))
    why = run.folder.failed.read_text()
    assert "given up after 2 attempts in a row that got no further than step 20" in why, why
    assert why.count("\n") == 1
    assert "attempt 1 of 2 since step 20 failed: " in run.log()
    with cluster.activated():
        (listed,) = json.loads(Said("runs", str(run.path), "--json").out)
    assert listed["state"] == "failed"
    assert "given up after 2 attempts" in listed["why"]
    assert not list(run.folder.jobs.glob("*_result.pkl"))


def test_failures_with_progress_are_not_counted_together(
    cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]
) -> None:
    evidence.append(tmp_path)
    run = Doomed(cluster, tmp_path / "run")
    run.hold.write_text("5 1 1")
    run.submit("--attempts=2")
    run.until("the first failure", lambda: "attempt 1 of 2 since step 0 failed" in run.log())
    run.hold.write_text("25 1 1")
    run.until("the second failure", lambda: "attempt 1 of 2 since step 20 failed" in run.log())
    run.hold.unlink()
    run.until("DONE", run.folder.done.exists)
    assert "given up" not in run.log()
    assert "attempt 2 of 2" not in run.log()


def test_bad_input_in_the_job_is_no_reason_to_try_again(
    cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]
) -> None:
    """What only a rank can find out: here, data that have gone in the meantime."""
    evidence.append(tmp_path)
    run = SlurmRun(cluster, tmp_path / "run")
    run.submit("--data=Arrays", f"--data.path={tmp_path / 'gone.npz'}")
    until("the end", lambda: not cluster.run("squeue", "-h"))
    assert run.log().count("dist-dash: data.path: ") == 1
    assert "Traceback" not in run.log()
    assert "bad input" in run.log()
    assert not run.folder.failed.exists()
