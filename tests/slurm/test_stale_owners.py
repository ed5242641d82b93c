"""Ranks of a node that Slurm believes lost go on: these stale ranks must not change what their successors write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.runs import finish
from tests.slurm.cluster import SlurmCluster, until
from tests.slurm.jobs import SlurmRun

EVERY = 20


@pytest.mark.isolated
def test_a_stale_owner_writes_nothing_into_its_successors_run(
    cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]
) -> None:
    evidence.append(tmp_path)
    undisturbed, first, second = tmp_path / "undisturbed", *cluster.nodes
    run = SlurmRun(cluster, tmp_path / "run", members=2, nodes=1)
    run.submit().until_step(EVERY + 3)
    stale = run.folder.owner()
    where = first if stale["host"] == first else second
    run.slow(10)  # by far not at its next checkpoint when Slurm gives the node up
    cluster.freeze_node(where)
    # Slurm gives the node up and starts the job on the other one, while the first ranks are alive and slow.
    run.until("the successor's ownership", lambda: run.folder.owner().get("job") == f"{run.job}.1")
    assert cluster.tasks(where), "the stale rank should still be alive"
    successor = run.folder.owner()
    assert successor["host"] != stale["host"]
    run.until("the successor's start", lambda: len(run.continued_at()) == 1)
    run.hold.unlink()  # both at full speed: the stale owner notices at its next save
    run.until("DONE", run.folder.done.exists)
    until("the end of the stale ranks", lambda: not cluster.tasks(where))
    assert run.folder.owner()["token"] == successor["token"]
    assert run.continued_at() == [EVERY]
    assert not run.folder.failed.exists()
    steps = [json.loads(line)["step"] for line in run.folder.metrics.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 61))
    finish(undisturbed, 2, 2, *run.recipe)
    run.same_as(undisturbed)
