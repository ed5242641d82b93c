"""A site that sends no SIGUSR2 at preemption: SIGTERM comes, which elsewhere means the end."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.runs import finish
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import SlurmRun


def test_preempted_by_sigterm_it_goes_on_all_the_same(tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    with SlurmCluster(nodes=1, accounting=False, user_signal=False) as cluster:
        run = SlurmRun(cluster, tmp_path / "run", members=2, nodes=1).submit().until_step(5)
        cluster.preempt(seconds=2)
        run.until("the save", run.folder.to_continue.exists)
        seen = run.step
        assert run.folder.to_continue.read_text() == "SIGTERM\n"
        run.until_state("PENDING")
        run.until_done()
        assert run.continued_at() == [seen]
    finish(tmp_path / "undisturbed", 2, 2, *run.recipe)
    run.same_as(tmp_path / "undisturbed")
