"""`dist-dash submit` as a user types it: the plan, the script, the job, and what is wrong in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import submitit

from dist_dash.cluster.job import TrainJob
from tests.e2e.runs import SMALL, assert_same_run, finish
from tests.e2e.test_launch import LIGHT
from tests.slurm.cluster import SlurmCluster, until
from tests.slurm.jobs import ROOT, STEPS, Said, SlurmRun, script

DIGITS = [*SMALL, "--method=DASH", "--method.rho_div=0.1"]


def test_dash_on_two_nodes_equals_dash_on_one(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    """By the script, from another process, with DeepSpeed, on digits."""
    evidence.append(tmp_path)
    run = SlurmRun(cluster, tmp_path / "run", members=4)
    command = script("submit.py", *run.resources(), *DIGITS, f"--run={run.path}")
    said = subprocess.run(command, env=cluster.env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    assert re.search(r"ranks +4 on 2 nodes, 2 ranks each, no GPU\n", said.stdout)
    assert re.search(r"members +4 × 1 replica\n", said.stdout)
    assert re.search(r"batch +32 samples per rank, 32 per member and update\n", said.stdout)
    assert re.search(r"memory +about ", said.stdout)
    assert f"submitted as job {run.job}; to follow it:" in said.stdout
    run.until_done()
    finish(tmp_path / "undisturbed", 4, 4, *DIGITS)
    run.same_as(tmp_path / "undisturbed")
    hosts = {line.partition("hostname=")[2].partition(",")[0] for r in range(4) for line in run.log(r).splitlines()}
    assert len(hosts - {""}) == (2 if cluster.address != "127.0.0.1" else 1)
    assert list(run.folder.jobs.glob("*_3_result.pkl")), "submitit's own users ask for results"


def test_replicas_make_up_the_world(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    run = SlurmRun(cluster, tmp_path / "run", members=4)
    with cluster.activated():
        said = Said("submit", *run.resources(), *SMALL, *LIGHT, "--engine=Torch", "--members=2", f"--run={run.path}")
    assert said.status == 0, said.err
    assert re.search(r"members +2 × 2 replicas\n", said.out)
    run.until_done()
    finish(tmp_path / "undisturbed", 4, 2, *LIGHT, "--engine=Torch")
    run.same_as(tmp_path / "undisturbed")


def test_two_jobs_on_one_node_do_not_meet(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    runs = [SlurmRun(cluster, tmp_path / name, members=2, nodes=1) for name in ("one", "other")]
    for run in runs:
        run.submit(f"--nodelist={cluster.nodes[0]}")
    for run in runs:
        run.until_step(2)
    assert all("RUNNING" in run.state for run in runs)
    for run in runs:
        run.hold.unlink()
    for run in runs:
        run.until_done()
    finish(tmp_path / "undisturbed", 2, 2, *runs[0].recipe)
    for run in runs:
        run.same_as(tmp_path / "undisturbed")


def test_an_executor_of_ones_own(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    """Without our batch script it is submitit that starts a stopped run again."""
    evidence.append(tmp_path)
    run = SlurmRun(cluster, tmp_path / "run")
    with cluster.activated():
        executor = submitit.AutoExecutor(tmp_path / "logs", cluster="slurm", slurm_python=sys.executable)
        setup = [f"export PYTHONPATH={ROOT}"]
        executor.update_parameters(timeout_min=60, nodes=2, tasks_per_node=1, slurm_setup=setup)
        job = executor.submit(TrainJob(str(run.path), tuple(run.recipe)))
        run.until_step(5)
        cluster.run("scancel", "--signal=USR2", job.job_id)
        run.until("the save", run.folder.to_continue.exists)
        seen = run.step
        run.until_done()
        until("the result", job.paths.result_pickle.exists)
        assert job.results() == [0, 0]
    assert run.continued_at() == [seen]


def test_a_queued_run_is_not_submitted_twice(cluster: SlurmCluster, tmp_path: Path) -> None:
    run = SlurmRun(cluster, tmp_path / "run").submit()
    with cluster.activated():
        again = Said("submit", *run.resources(), *run.recipe, f"--run={run.path}")
    assert again.status == 2
    assert re.fullmatch(rf"dist-dash: run: \S+ is \w+ as job {run.job}; .*\n", again.err)


def test_the_same_job_object_without_slurm(tmp_path: Path) -> None:
    run = SlurmRun(SlurmCluster(), tmp_path / "run", members=2, nodes=1)
    run.hold.unlink()
    command = ["submit", "--executor=local", *run.resources(), *run.recipe, f"--run={run.path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        script("submit.py", *command[1:]),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "finished; everything is in" in done.stderr
    finish(tmp_path / "undisturbed", 2, 2, *run.recipe)
    assert_same_run(run.path, tmp_path / "undisturbed")
    assert f"step {STEPS}/{STEPS}" not in done.stderr  # progress is off


def refused(cluster: SlurmCluster, run: Path, *options: str) -> str:
    """What is said of a submission that must leave nothing."""
    with cluster.activated():
        said = Said("submit", *options, *SMALL, *LIGHT, f"--run={run}")
    assert said.status == 2, said.out
    assert said.err.count("\n") == 1, said.err
    assert not run.exists()
    assert not cluster.run("squeue", "-h")
    return said.err.removeprefix("dist-dash: ").strip()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--partition=gpuu"], r"Slurm: invalid partition specified: gpuu; .*; partitions here: main, high"),
        (["--gpus-per-node=9"], r"Slurm: Requested node configuration is not available; asked for .* 9 GPUs, .*gpu:2"),
        (["--nodes=7"], r"Slurm: Requested node configuration is not available; asked for 7 nodes .*main: 2 nodes.*"),
        (["--constraint=h100"], r"Slurm: Invalid feature specification.*"),
        (["--nodes=2", "--members=3"], r"members: 3 is not allowed; it must divide the 2 ranks \(2 × 1 ranks\)"),
        (["--tasks-per-node=4", "--members=2", "--replicas=1"], r"replicas: 1 is not allowed; 4 ranks for 2 .* make 2"),
        (["--time=soon"], r"time: 'soon' is not allowed; it must be minutes, H:MM:SS or D-HH:MM:SS"),
        (["--time=1"], r"time: '1' is not allowed; it must be longer than the warning \(120 s\)"),
        (["--nodes=0"], r"nodes: '0' is not allowed; it must be a whole number ≥ 1"),
        (["--node=2"], r"node: no such field; .*"),
        (["--site=/nowhere.yaml"], r"site: .*nowhere.yaml.*"),
    ],
)
def test_what_slurm_or_we_refuse(cluster: SlurmCluster, tmp_path: Path, options: list[str], words: str) -> None:
    said = refused(cluster, tmp_path / "run", *options)
    assert re.fullmatch(words, said), said


def test_a_foreign_folder(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with cluster.activated():
        said = Said("submit", *SMALL, *LIGHT, f"--run={tmp_path}")
    assert said.status == 2
    assert "holds files that are not a run's" in said.err


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = Said("submit", *SMALL, *LIGHT, f"--run={tmp_path / 'run'}")
    assert said.status == 2
    assert said.err == (
        "dist-dash: Slurm: sbatch is not on PATH; --executor local runs the job here, --dry-run shows its script\n"
    )


@pytest.mark.isolated
def test_a_folder_that_the_nodes_do_not_see(cluster: SlurmCluster) -> None:
    """Each node has a /dev/shm of its own."""
    run = Path("/dev/shm") / f"unseen-{os.getpid()}" / "run"
    try:
        job = SlurmRun(cluster, run).submit()
        until("the end of the job", lambda: not cluster.run("squeue", "-h"))
        listed = dict[str, Any]()

        def is_known_to_have_failed() -> bool:  # Slurm's queue and accounting do not change at one moment
            with cluster.activated():
                listed.update(json.loads(Said("runs", str(run), "--json").out)[0])
            return listed["state"] == "failed"

        until("the state", is_known_to_have_failed)
        assert listed["job"] == job.job
        where = f"{run}/slurm; it must be on a file system that all nodes share"
        assert listed["why"] == f"{cluster.nodes[0]} does not see {where}"
    finally:
        shutil.rmtree(run.parent)
