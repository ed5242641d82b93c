"""`slurm/torchrun.sbatch`: the same guarantees without submitit."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.e2e.runs import finish
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import ROOT, SlurmRun


class TorchrunRun(SlurmRun):
    """Two nodes, one torchrun each, which starts one rank."""

    more: tuple[str, ...] | list[str] = ()

    def submit(self, *options: str) -> TorchrunRun:
        bin_folder = Path(sys.executable).parent
        exports = f"ALL,RUN={self.path},RANKS=1,PATH={bin_folder}:{self.cluster.env['PATH']},PYTHONPATH={ROOT}"
        self.path.parent.mkdir(exist_ok=True)
        where = ["-D", str(ROOT), "-o", str(self.path.with_name("torchrun.log")), "--nodes=2", f"--export={exports}"]
        script = ["slurm/torchrun.sbatch", *self.recipe, *self.more]
        name = self.cluster.run("sbatch", "--parsable", *where, *options, *script)
        self.given = name
        return self

    @property
    def job(self) -> str:
        return self.given


def test_signal_requeue_and_cancel(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    run = TorchrunRun(cluster, tmp_path / "run").submit().until_step(7)
    cluster.run("scancel", "--signal=USR2", run.job)
    run.until("the save", run.folder.to_continue.exists)
    first = run.step
    assert run.folder.to_continue.read_text() == "SIGUSR2\n"
    run.until_state("PENDING")
    run.until_step(first + 3)
    assert run.folder.owner()["job"] == f"{run.job}.1"
    cluster.run("scancel", run.job)  # for good
    run.until("the end of the job", lambda: not cluster.run("squeue", "-h"))
    assert not run.folder.done.exists()
    run.submit().until_done()
    assert run.continued_at()[0] == first
    finish(tmp_path / "undisturbed", 2, 2, *run.recipe)
    run.same_as(tmp_path / "undisturbed")


def test_bad_input_is_no_reason_to_try_again(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    run = TorchrunRun(cluster, tmp_path / "run")
    run.more = ["--data=Arrays", f"--data.path={tmp_path / 'gone.npz'}"]
    run.submit().until("the end of the job", lambda: not cluster.run("squeue", "-h"))
    log = (tmp_path / "torchrun.log").read_text()
    assert "dist-dash: bad input: see above" in log
    assert "attempt" not in log
    assert not run.folder.failed.exists()
