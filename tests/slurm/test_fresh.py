"""`--fresh` on a cluster: what there is goes when Slurm has accepted the new job, and only once."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.runs import finish
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import Said, SlurmRun


def test_starting_over(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    run = SlurmRun(cluster, tmp_path / "run")
    run.hold.unlink()
    finish(run.path, 2, 2, *run.recipe, "--seed=3")
    weights = (run.path / "ensemble/member_00.safetensors").read_bytes()
    with cluster.activated():
        refused = Said("submit", *run.resources(), *run.recipe, "--fresh", "--partition=gpuu", f"--run={run.path}")
        assert refused.status == 2
        assert run.folder.done.exists()
        again = Said("submit", *run.resources(), *run.recipe, "--seed=3", f"--run={run.path}")
        assert again.out.endswith("is finished already; --fresh starts over, --extend with more epochs trains on\n")
    run.slow(0.05)
    run.submit("--fresh").until_step(5)
    cluster.run("scancel", "--signal=USR2", run.job)
    run.until("the save", run.folder.to_continue.exists)
    seen = run.step
    run.until_done()
    assert run.continued_at() == [seen]
    assert (run.path / "ensemble/member_00.safetensors").read_bytes() != weights
    finish(tmp_path / "undisturbed", 2, 2, *run.recipe)
    run.same_as(tmp_path / "undisturbed")
