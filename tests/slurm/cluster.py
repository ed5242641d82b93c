"""A real Slurm cluster of several virtual nodes on this one machine, for tests.

    with SlurmCluster(nodes=2, cpus=4, gpus=2) as cluster:
        with cluster.activated():  # os.environ is cluster.env; undone afterwards
            job = submitit.SlurmExecutor(folder).submit(function)
        cluster.run("squeue")      # or any command with env=cluster.env
        cluster.drop_node("n1")    # a power cut: the cable first, then every process
        cluster.freeze_node("n2")  # Slurm believes it lost; its jobs run on
        cluster.reset()

By hand; the exit status is that of the command:

    python tests/slurm/cluster.py --nodes 2 --gpus 2 -- sh -c 'srun -N2 hostname; sacct'

A server process (cluster_server.py) starts all daemons and is their subreaper, so that whatever they and the
jobs ever fork stays its descendant. It stops when its stdin closes, which the kernel sees to however the caller
ends: it kills its descendants and removes the state directory. There is no other way to stop, so every run
exercises the clean-up.

Two kinds of nodes. Isolated ones (the default where it works: root and name spaces) have a PID, network, mount
and host name space each and hang on a bridge; a dropped one falls silent as after a power cut. Plain ones (no
privileges) are slurmds on ports of their own on 127.0.0.x; a dropped one refuses connections. The GPUs are
numbers only.

All of this is the standard library's, so that any Python can start it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

Value = TypeVar("Value")

LIMIT = 300
"""Seconds in which anything that is to happen has happened, on the busiest machine."""

PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge"}
ACCOUNTING = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core"}
ISOLATION = ("ip", "unshare", "nsenter")
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
SERVER = Path(__file__).resolve().with_name("cluster_server.py")

# Must not leak from the caller into the jobs (sbatch exports its whole environment): traces of an outer Slurm
# job, of an outer submitit job and of an outer distributed run.
LEAKS = re.compile(
    r"(SLURM|SBATCH|SRUN|SALLOC|SQUEUE|SINFO|SACCT|SCANCEL|SCONTROL|PMI|PMIX|SUBMITIT|TORCHELASTIC)_.*"
    r"|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|CUDA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL"
)


class SlurmError(RuntimeError):
    """The cluster could not be started or did not do what it was told."""


def missing(accounting: bool = True) -> list[str]:
    """The apt packages that a cluster lacks on this machine; none: it can be started."""
    wanted = PROGRAMS | (ACCOUNTING if accounting else {})
    return sorted({package for program, package in wanted.items() if not shutil.which(program, path=PATH)})


@functools.cache
def can_isolate() -> bool:
    """Whether nodes can have name spaces of their own here."""
    if os.getuid() or not all(shutil.which(program, path=PATH) for program in ISOLATION):
        return False
    trial = "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs tmpfs /dev/shm"
    enter = ["unshare", "--pid", "--net", "--mount", "--mount-proc", "--uts", "--fork"]
    tried = subprocess.run([*enter, "sh", "-c", trial], env={"PATH": PATH}, capture_output=True, check=False)
    return tried.returncode == 0


def until(what: str, test: Callable[[], Value], seconds: float = LIMIT) -> Value:
    """Wait for a moment; what the test said then."""
    limit = time.monotonic() + seconds
    while not (value := test()):
        if time.monotonic() > limit:
            raise SlurmError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return value


class SlurmCluster:
    """The caller's end: start, stop, the environment to use and the accidents to provoke.

    Args:
        nodes: how many.
        cpus: per node.
        gpus: per node; not real ones.
        accounting: whether sacct works (slurmdbd and MariaDB: 2 s more to start).
        isolated: whether nodes have name spaces of their own; None: where that works.
        grace: seconds between the signal of a preemption and its kill.
        max_array_size: Slurm's limit of array indices plus one; None: Slurm's own.
        user_signal: whether a preempted job gets the signal of its `--signal` first, as submitit needs it.
        logs: folder to copy logs and configuration to at the end.
    """

    def __init__(
        self,
        nodes: int = 2,
        cpus: int = 4,
        gpus: int = 0,
        accounting: bool = True,
        isolated: bool | None = None,
        grace: int = 60,
        max_array_size: int | None = None,
        user_signal: bool = True,
        logs: Path | str | None = None,
    ) -> None:
        self._options = {
            "nodes": nodes,
            "cpus": cpus,
            "gpus": gpus,
            "accounting": accounting,
            "isolated": can_isolate() if isolated is None else isolated,
            "grace": grace,
            "max_array_size": max_array_size,
            "user_signal": user_signal,
            "logs": str(Path(logs).resolve()) if logs else None,
        }
        self._server: subprocess.Popen[str] | None = None
        self._dropped: set[str] = set()
        self._frozen: set[str] = set()
        self.env: dict[str, str] = {}
        self.nodes: list[str] = []
        self.dir = Path()
        self.address = ""  # where jobs reach what listens outside of the nodes, such as in the test

    def __enter__(self) -> SlurmCluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> SlurmCluster:
        if lacking := missing(bool(self._options["accounting"])):
            raise SlurmError("Slurm is not (fully) installed: apt-get install -y " + " ".join(lacking))
        clean = {name: value for name, value in os.environ.items() if not LEAKS.fullmatch(name)}
        self._server = subprocess.Popen(
            [sys.executable, "-I", str(SERVER), json.dumps(self._options)],
            env={**os.environ, "PATH": PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,  # Ctrl-C must not reach it before the caller's clean-up
        )
        try:
            ready = self._reply()
        except BaseException:
            self.stop()
            raise
        self.nodes, self.dir, self.address = ready["nodes"], Path(ready["dir"]), ready["address"]
        self.env = {**clean, "PATH": PATH, "SLURM_CONF": str(self.dir / "slurm.conf")}
        return self

    def stop(self) -> None:
        if server := self._server:
            assert server.stdin
            assert server.stdout
            with contextlib.suppress(OSError):
                server.stdin.close()  # is the signal to stop
            server.wait()
            server.stdout.close()
            self._server = None

    def activated(self) -> Any:
        """`with cluster.activated():` os.environ is cluster.env; submitit calls sbatch with os.environ."""
        return mock.patch.dict(os.environ, self.env, clear=True)

    def run(self, *command: str, timeout: float = LIMIT) -> str:
        """Run a command in the cluster's environment; what it printed."""
        done = self._run(command, timeout)
        if done.returncode:
            raise SlurmError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout.strip()

    def state(self, name: str) -> str:
        """What Slurm says of a node, such as `idle` or `down*`; the asterisk: it does not answer."""
        return self.run("sinfo", "-h", "-N", "-n", name, "-p", "main", "-o", "%T")

    def tasks(self, name: str) -> list[int]:
        """The processes of jobs on a node, whatever Slurm believes of them."""
        return self._ask("tasks", name)

    def drop_node(self, name: str) -> None:
        """Cut the node's power. Slurm notices by itself, 9 to 16 s later."""
        self._ask("drop", name)
        self._dropped.add(name)
        self._frozen.discard(name)

    def restore_node(self, name: str) -> None:
        """Switch the node on again and wait until Slurm has it back."""
        self._ask("restore", name)
        self._dropped.discard(name)

    def freeze_node(self, name: str) -> None:
        """Stop the node's slurmd, and nothing else: Slurm believes the node lost, its jobs' tasks run on."""
        self._ask("freeze", name)
        self._frozen.add(name)

    def thaw_node(self, name: str) -> None:
        """Let the node's slurmd go on and wait until Slurm has it back: up to 10 s where it counted as lost."""
        self._ask("thaw", name)
        self._frozen.discard(name)

    def preempt(self, nodes: Iterable[str] | None = None, seconds: float = 1) -> str:
        """Push the jobs of partition `main` off these nodes for some seconds; the id of the job that does it."""
        nodes = list(nodes or self.nodes)
        # --exclusive: as long as the nodes have CPUs to spare, nothing is preempted.
        where = ["-p", "high", "--exclusive", "-N", str(len(nodes)), "-w", ",".join(nodes)]
        how = ["-J", "preempt", "-D", "/", "-o", "/dev/null", "--wrap", f"sleep {seconds}"]
        return self.run("sbatch", "--parsable", *where, *how)

    def reset(self, seconds: float = LIMIT) -> None:
        """Repair all nodes, cancel all jobs, and wait until none of them is left, zombies included."""
        for name in sorted(self._frozen):
            self.drop_node(name)  # faster back than a thawed one
        for name in sorted(self._dropped):
            self.restore_node(name)

        def nothing_left() -> bool:
            if not self.run("squeue", "-h") and not any(map(self.tasks, self.nodes)):
                return True
            self._run(["scancel", "--user", str(os.getuid())])
            for name in self.nodes:  # submitit's jobs ignore scancel's SIGTERM
                for pid in self.tasks(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return False

        until("the end of all jobs", nothing_left, seconds)

    def _run(self, command: Iterable[str], timeout: float = LIMIT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(command),
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )

    def _ask(self, action: str, node: str) -> Any:
        assert self._server
        assert self._server.stdin
        with contextlib.suppress(OSError):  # the server died: there will be no reply
            self._server.stdin.write(json.dumps({"do": action, "node": node}) + "\n")
            self._server.stdin.flush()
        return self._reply()["value"]

    def _reply(self) -> dict[str, Any]:
        assert self._server
        assert self._server.stdout
        line = self._server.stdout.readline()
        reply = json.loads(line) if line else {"error": "the server of the cluster died"}
        if "error" in reply:
            raise SlurmError(reply["error"])
        return reply


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command inside a Slurm cluster made for it.")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=4, help="per node")
    parser.add_argument("--gpus", type=int, default=0, help="per node; not real ones")
    parser.add_argument("--no-accounting", dest="accounting", action="store_false")
    parser.add_argument("--plain", dest="isolated", action="store_false", default=None, help="no name spaces")
    parser.add_argument("--grace", type=int, default=60, help="seconds between a preemption's signal and its kill")
    parser.add_argument("--max-array-size", type=int)
    parser.add_argument("--no-user-signal", dest="user_signal", action="store_false")
    parser.add_argument("--logs", help="folder to copy logs and configuration to at the end")
    parser.add_argument("command", nargs="+", help="after --")
    options = vars(parser.parse_args())
    command = options.pop("command")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with SlurmCluster(**options) as cluster:
            return subprocess.run(command, env=cluster.env, check=False).returncode
    except (SlurmError, OSError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
