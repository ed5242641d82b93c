"""The cluster that the other tests here rely on: it works, it can be hurt, and it leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.slurm import cluster as harness
from tests.slurm.cluster import SlurmCluster, SlurmError, until


def write_on(node: str, cluster: SlurmCluster, file: Path) -> str:
    """A job that writes a line every tenth of a second, for ever; it has begun."""
    script = f"while sleep 0.1; do date +%s.%N >> {file}; done"
    options = ["--parsable", "--no-requeue", "-w", node, "-o", str(file.with_name("job.out"))]
    job = cluster.run("sbatch", *options, "--wrap", script)
    until("the job's first line", file.exists)
    return job


def grows(file: Path) -> bool:
    size = file.stat().st_size
    time.sleep(0.5)
    return file.stat().st_size > size


def test_a_step_on_two_nodes(cluster: SlurmCluster) -> None:
    said = cluster.run("srun", "-N2", "--gpus-per-node=2", "sh", "-c", "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES")
    assert sorted(said.splitlines()) == [f"{name} 0,1" for name in cluster.nodes]
    until("accounting of the job", lambda: "COMPLETED" in cluster.run("sacct", "-X", "-n", "-o", "State"))


@pytest.mark.isolated
def test_nodes_are_machines_of_their_own(cluster: SlurmCluster) -> None:
    script = "touch /dev/shm/$SLURMD_NODENAME; sleep 0.5; echo $(hostname) $(ls /dev/shm); getent hosts n1 n2"
    said = cluster.run("srun", "-N2", "sh", "-c", script).splitlines()
    net = cluster.address.removesuffix(".1")
    hosts = [f"{net}.11      n1".split(), f"{net}.12      n2".split()]
    assert sorted(line.split() for line in said) == sorted([["n1", "n1"], ["n2", "n2"], *hosts, *hosts])


def test_power_cut(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    node, other = cluster.nodes
    write_on(node, cluster, tmp_path / "lines")
    assert cluster.tasks(node)
    cluster.drop_node(node)
    assert not grows(tmp_path / "lines")
    until("Slurm's noticing", lambda: cluster.state(node).startswith("down"))
    assert cluster.state(other) == "idle"
    cluster.restore_node(node)
    assert cluster.run("srun", "-w", node, "echo", "back") == "back"


def test_frozen_node(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    node = cluster.nodes[1]
    job = write_on(node, cluster, tmp_path / "lines")
    cluster.freeze_node(node)
    until("Slurm's giving up", lambda: cluster.state(node).startswith("down"))
    assert job not in cluster.run("squeue", "-h", "-o", "%A")
    assert grows(tmp_path / "lines")
    cluster.thaw_node(node)
    until("the end of the zombie", lambda: not cluster.tasks(node))
    until("Slurm's agreeing", lambda: cluster.state(node) == "idle")


def test_preemption(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    node, file = cluster.nodes[0], tmp_path / "told"
    script = f"trap 'echo told >> {file}; exit' USR2; echo up >> {file}; while :; do sleep 0.1; done"
    step = f'srun sh -c "{script}"'
    cluster.run("sbatch", "--signal=USR2@30", "-w", node, "-o", str(tmp_path / "job.out"), "--wrap", step)
    until("the job's start", file.exists)
    high = cluster.preempt([node], seconds=30)
    until("preemption", lambda: cluster.run("squeue", "-h", "-j", high, "-o", "%T") == "RUNNING")
    assert file.read_text().split() == ["up", "told"]


def test_reset(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    one, two = cluster.nodes
    script = "trap '' TERM USR2; sleep 600 & setsid sleep 600"  # what scancel asks it is not interested in
    for options in (["-w", one], ["-w", two], ["-N2", "--exclusive"]):
        cluster.run("sbatch", *options, "-o", str(tmp_path / "%j.out"), "--wrap", script)
    until("the jobs' start", lambda: all(map(cluster.tasks, cluster.nodes)))
    cluster.freeze_node(one)
    cluster.drop_node(two)
    cluster.reset()
    assert [cluster.state(name) for name in cluster.nodes] == ["idle", "idle"]
    assert [cluster.run("squeue", "-h"), *map(cluster.tasks, cluster.nodes)] == ["", [], []]
    with pytest.raises(SlurmError, match="it runs"):
        cluster.restore_node(one)
    assert cluster.run("srun", "-N2", "echo", "well") == "well\nwell"


def test_options_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_JOB_ID", "SUBMITIT_EXECUTOR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("KEPT", "7")
    with SlurmCluster(nodes=1, accounting=False, max_array_size=5, user_signal=False) as cluster:
        config = cluster.run("scontrol", "show", "config")
        assert re.search(r"MaxArraySize\s*= 5\n", config)
        assert "send_user_signal" not in config
        with cluster.activated():
            said = subprocess.run(["srun", "env"], capture_output=True, text=True, check=True).stdout
    assert not re.search("^(RANK|SUBMITIT_EXECUTOR|CUDA_VISIBLE_DEVICES|SLURM_JOB_ID)=7$", said, re.MULTILINE)
    assert "\nKEPT=7\n" in said


def test_a_failed_start_says_why_and_leaves_nothing() -> None:
    with pytest.raises(SlurmError, match=r"(?s)slurmctld did not come up.*GraceTime value") as caught:
        SlurmCluster(nodes=1, accounting=False, grace=-1).start()
    folders = re.findall(r"--- (\S+)/log/slurmctld", str(caught.value))
    assert folders
    assert not any(Path(folder).exists() for folder in folders)


@pytest.mark.parametrize("kind", ["plain", pytest.param("isolated", marks=pytest.mark.isolated)])
@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_nothing_is_left(kind: str, ending: str) -> None:
    options = ["--nodes=1", "--no-accounting", *(["--plain"] if kind == "plain" else [])]
    script = 'sbatch -o /dev/null --wrap "setsid sleep 600 & exec nohup sleep 600" >&2; echo $SLURM_CONF; cat'
    command = [sys.executable, harness.__file__, *options, "--", "sh", "-c", script]
    caller = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert caller.stdin
    assert caller.stdout
    config = Path(caller.stdout.readline().strip())
    network = re.search(r"NodeAddr=198\.18\.(\d+)\.", config.read_text())
    interface = Path(f"/sys/class/net/slurm{network[1]}" if network else "/none")
    assert interface.exists() == (kind == "isolated")

    def job_runs() -> list[psutil.Process]:
        family = psutil.Process(caller.pid).children(recursive=True)
        return family if [process.name() for process in family].count("sleep") >= 2 else []

    family = until("the job's start", job_runs)
    if ending == "kill":
        caller.send_signal(signal.SIGKILL)
    caller.stdin.close()  # ends the command
    assert caller.wait(30) == (-signal.SIGKILL if ending == "kill" else 0)
    caller.stdout.close()
    until("the end of all processes", lambda: not any(map(lives, family)))
    assert not config.parent.exists()
    until("the kernel's removal of the network", lambda: not interface.exists())


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
