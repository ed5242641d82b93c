"""Sweeps: one array, one folder per point, throttled, split, finished points left out; members scattered and joined."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from dist_dash.runs.folder import RunFolder
from tests.e2e.runs import SMALL, assert_same_run, finish, step_of
from tests.e2e.test_launch import LIGHT
from tests.slurm.cluster import SlurmCluster, until
from tests.slurm.jobs import ROOT, Said

ENVIRONMENT = f"--environment={json.dumps({'PYTHONPATH': str(ROOT)})}"
ONE_CORE = ["--nodes=1", "--tasks-per-node=1", "--time=60", ENVIRONMENT]


def recipe(hold: Path) -> list[str]:
    return [*SMALL, *LIGHT, "--engine=tests.e2e.faults.Held", f"--engine.sign={hold}"]


def array(cluster: SlurmCluster, folder: Path, *arguments: str) -> Said:
    with cluster.activated():
        return Said("array", f"--folder={folder}", *arguments)


def running(cluster: SlurmCluster) -> int:
    return cluster.run("squeue", "-h", "-r", "-t", "RUNNING").count("\n") + 1


def test_a_sweep_throttled_watched_and_completed(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    hold, folder = tmp_path / "hold", tmp_path / "sweep"
    arguments = [*ONE_CORE, "--members=1", "--parallel=2", *recipe(hold)]
    first = array(cluster, folder, *arguments, "--sweep=method=SGD,SAM", "--sweep=seed=0")
    assert first.status == 0, first.err
    assert re.search(r"submitted 2 jobs by 1 calls? of sbatch: \d+\n", first.out), first.out
    until("the first points", lambda: all((p / "DONE").exists() for p in points(folder)) and points(folder))
    until("the end of all jobs", lambda: not cluster.run("squeue", "-h"))
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("DONE")}
    assert len(kept) == 2

    hold.write_text("1 2")
    second = array(cluster, folder, *arguments, "--sweep=method=SGD,SAM", "--sweep=seed=0..2")
    assert "6 points, 6 jobs; 2 finished or under way are left out" in second.out, second.out + second.err
    most = 0

    def started() -> bool:
        nonlocal most
        most = max(most, running(cluster))
        return len([p for p in points(folder) if (p / "metrics.jsonl").exists()]) >= 4

    until("two more points", started)
    again = array(cluster, folder, *arguments, "--sweep=method=SGD,SAM", "--sweep=seed=0..2")
    assert "6 points, 6 jobs; 6 finished or under way are left out" in again.out, again.out + again.err
    with cluster.activated():
        listed = json.loads(Said("runs", str(folder), "--json").out)
    states = [run["state"] for run in listed]
    assert states.count("done") == 2
    assert states.count("running") == 2
    assert states.count("queued") == 2
    hold.unlink()
    with cluster.activated():
        watched = Said("runs", str(folder), "--watch")
    assert watched.status == 0
    assert "6 done" in watched.out.splitlines()[-1], watched.out
    assert most == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    finish(tmp_path / "undisturbed", 1, 1, *recipe(hold), "--method=SAM", "--seed=2")
    assert_same_run(folder / "method-SAM_seed-2", tmp_path / "undisturbed")


def test_the_last_task_restarts_alone(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    """Its own id is that of the array: taken for its name, it would requeue all tasks."""
    evidence.append(tmp_path)
    hold, folder = tmp_path / "hold", tmp_path / "sweep"
    hold.write_text("1 3")
    said = array(cluster, folder, *ONE_CORE, "--members=1", *recipe(hold), "--sweep=seed=0,1")
    assert said.status == 0, said.err
    first, last = (RunFolder(folder / f"seed-{seed}") for seed in (0, 1))
    until("both tasks' training", lambda: min(step_of(first.path), step_of(last.path)) >= 3)
    cluster.run("scancel", "--signal=USR2", last.submitted()["job"])
    until("the save", last.to_continue.exists)
    until("the restart", lambda: last.owner()["job"].endswith(".1"))
    hold.unlink()
    until("both points", lambda: first.done.exists() and last.done.exists())
    assert (first.owner()["continued"], last.owner()["continued"]) == (0, 1)
    assert first.owner()["job"].endswith(".0")


def points(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != "slurm"] if folder.exists() else []


def test_scattered_members_meet_again(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    """SGD's members as jobs of one rank each, DASH's as a gang, from one sweep; each ends as the gang ends."""
    evidence.append(tmp_path)
    hold, folder = tmp_path / "hold", tmp_path / "sweep"
    resources = ["--nodes=1", "--tasks-per-node=2", "--time=60", ENVIRONMENT]
    said = array(cluster, folder, *resources, *recipe(hold), "--scatter", "--sweep=method=SGD,DASH")
    assert said.status == 0, said.err
    assert "2 points, 3 jobs" in said.out
    until("both ensembles", lambda: len(list(folder.glob("method-*/DONE"))) == 2)
    until("the end of all jobs", lambda: not cluster.run("squeue", "-h"))
    for method in ("SGD", "DASH"):
        finish(tmp_path / method, 2, 2, *recipe(hold), f"--method={method}")
        ours, theirs = folder / f"method-{method}", tmp_path / method
        assert json.loads((ours / "evaluation.json").read_text()) == json.loads(
            (theirs / "evaluation.json").read_text()
        )
        assert_same_run(ours, theirs)
    said = array(cluster, folder, *resources, *recipe(hold), "--scatter", "--sweep=method=SGD,DASH")
    assert "2 points, 3 jobs; 3 finished or under way are left out" in said.out


def test_an_array_larger_than_slurm_allows_is_split(tmp_path: Path) -> None:
    """And two hundred points are submitted within seconds."""
    with SlurmCluster(nodes=1, accounting=False, max_array_size=120) as cluster:
        arguments = [*ONE_CORE, "--members=1", "--parallel=1", *recipe(tmp_path / "hold")]
        started = time.monotonic()
        said = array(cluster, tmp_path / "sweep", *arguments, "--sweep=method=SGD,SAM", "--sweep=seed=0..99")
        print(f"200 points submitted in {time.monotonic() - started:.2f} s")
        assert said.status == 0, said.err
        assert re.search(r"submitted 200 jobs by 2 calls of sbatch: \d+, \d+\n", said.out), said.out
        first, second = re.findall(r"\d+", said.out.partition("sbatch:")[2].splitlines()[0])
        queued = cluster.run("squeue", "-h", "-r", "-o", "%F %K %E").splitlines()
        assert len([line for line in queued if line.startswith(f"{first} ")]) == 120
        rest = [line for line in queued if line.startswith(f"{second} ")]
        assert len(rest) == 80
        assert all(first in line.split(" ", 2)[2] for line in rest), "the throttle holds for all parts together"
        jobs = [RunFolder(path).submitted()["job"] for path in points(tmp_path / "sweep")]
        assert len(set(jobs)) == 200
        cluster.run("scancel", first, second)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sweep=sed=0..4"], r"sed: no such field; did you mean seed or speed\? \(point sed-0\)"),
        (["--sweep=seed=0,0"], r"seed: '0' is given twice.*"),
        (["--sweep=optimizer.lr=0.1,1e-1"], r"optimizer.lr: '1e-1' after '0.1' changes nothing; .*"),
        ([], r"sweep: missing; .*"),
        (["--sweep=seed=0..3", "--parallel=0"], r"parallel: 0 is not allowed; it must be a whole number ≥ 1"),
        (["--sweep=seed=0..3", "--partition=gpuu"], r"Slurm: invalid partition specified: gpuu; .*"),
        (["--sweep=seed=0..3", "--members=3", "--tasks-per-node=2"], r"members: 3 is not allowed; it must divide .*"),
    ],
)
def test_all_or_nothing(cluster: SlurmCluster, tmp_path: Path, options: list[str], words: str) -> None:
    said = array(cluster, tmp_path / "sweep", *SMALL, *LIGHT, *options)
    assert said.status == 2, said.out
    assert re.fullmatch(f"dist-dash: {words}\n", said.err), said.err
    assert not cluster.run("squeue", "-h")
    assert not any(path.name == "job.json" for path in tmp_path.rglob("*"))


def test_slurm_refuses_the_second_part(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes the trial and fails at the submission: nothing of the sweep stays in the queue."""
    real, counter = cluster.run("which", "sbatch"), tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/sbatch"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *--test-only*) exec {real} "$@";; esac\necho x >> {counter}\n'
        f'[ "$(wc -l < {counter})" -gt 1 ] && {{ echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }}\n'
        f'exec {real} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setitem(cluster.env, "PATH", f"{fake.parent}{os.pathsep}{cluster.env['PATH']}")
    options = ["--nodes=1", "--tasks-per-node=2", "--scatter", ENVIRONMENT, "--sweep=method=SGD,DASH"]
    said = array(cluster, tmp_path / "sweep", *options, *recipe(tmp_path / "hold"))
    assert said.status == 2
    assert said.err == "dist-dash: Slurm: QOSMaxSubmitJobPerUserLimit\n"
    until("nothing in the queue", lambda: not cluster.run("squeue", "-h"))
