"""The server of a cluster: starts its daemons and nodes, does to them what it is asked to, removes all of it.

Runs as `python -I cluster_server.py OPTIONS` with JSON on its pipes, on the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # -I leaves it out

from cluster_config import IMPATIENCE, PATIENCE, configure, set_patience, user
from cluster_node import adopt_orphans, command_of, descendants, die_with_parent, kill_descendants

PREFIX = "slurm-cluster-"
STATE = Path("/tmp")  # not $TMPDIR: paths of unix sockets may have 107 characters only
NODE = Path(__file__).with_name("cluster_node.py")
APART = ["unshare", "--pid", "--net", "--mount", "--mount-proc", "--uts", "--fork", "--kill-child"]

# --skip-grant-tables gets by without system tables, so that an empty folder will do. Without fsync and with small
# logs a start takes 2 s instead of 5 s.
FRUGAL = [
    "--skip-networking",
    "--skip-grant-tables",
    "--innodb-log-file-size=4M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-use-native-aio=0",
    "--innodb-lock-wait-timeout=900",
    "--innodb-flush-method=nosync",
    "--debug-no-sync",
    "--sync-frm=0",
]


class ServerError(RuntimeError):
    """Something did not come up, or a command failed."""


def connects(address: str | tuple[str, int]) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as trial:
        trial.settimeout(0.2)
        return trial.connect_ex(address) == 0


class Server:
    """A cluster's processes and folder. Nothing is left of either after stop()."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.isolated = options, options["isolated"]
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.frozen: set[str] = set()
        self.ports: dict[str, int] = {}
        self.dir = self.make_folder()
        # slurmdbd cannot be told of the database's socket elsewhere.
        self.env = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "SLURM_CONF": f"{self.dir}/slurm.conf",
            "MYSQL_UNIX_PORT": f"{self.dir}/db.socket",
        }
        self.address = self.outside = "127.0.0.1"
        count = range(1, options["nodes"] + 1)
        # Plain nodes have no name service of their own, so they are called by a number that resolves by itself.
        self.nodes = {f"0x7f{10 + i:06}": f"127.0.0.{int(str(10 + i), 16)}" for i in count}

    def make_folder(self) -> Path:
        """A locked folder of our own; those that killed servers left behind are locked no more, and go."""
        for old in STATE.glob(f"{PREFIX}*/lock"):
            with contextlib.suppress(OSError), old.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.parent, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=STATE))
        folder.chmod(0o755)
        for name in ("log", "state", "dev", "db"):
            (folder / name).mkdir()
        self.lock = os.open(folder / "unlocked", os.O_CREAT | os.O_RDWR)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        (folder / "unlocked").rename(folder / "lock")
        return folder

    # ------------------------------------------------------------------------------------------ processes

    def in_hub(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.hub.pid}/ns/net"] if self.isolated else []

    def popen(self, log: str, *command: str, **pipes: int) -> subprocess.Popen[str]:
        """Start a process that dies with the server even if that one cannot clean up any more."""
        with (self.dir / "log" / f"{log}.out").open("a") as out:
            return subprocess.Popen(
                command,
                env=self.env,
                cwd=self.dir,
                text=True,
                stdin=pipes.get("stdin", subprocess.DEVNULL),
                stdout=pipes.get("stdout", out),
                stderr=out,
                preexec_fn=die_with_parent,
            )

    def sh(self, command: str, hub: bool = False) -> str:
        done = subprocess.run(
            [*(self.in_hub() if hub else []), *command.split()],
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"{command}: {done.stdout}")
        return done.stdout

    def wait(self, what: str, test: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
        limit = time.monotonic() + seconds
        while not test():
            if time.monotonic() > limit or process.poll() is not None:
                logs = sorted((self.dir / "log").glob(f"{what}.*"))
                tails = "".join(f"\n--- {path}\n{path.read_text(errors='replace')[-2000:]}" for path in logs)
                raise ServerError(f"{what} did not come up{tails}")
            time.sleep(0.05)

    # ---------------------------------------------------------------------------------------- start, stop

    def start(self) -> None:
        if self.isolated:
            net = self.make_network()
            self.address, self.outside = f"{net}.2", f"{net}.1"
            self.nodes = {f"n{i}": f"{net}.{10 + i}" for i in range(1, self.options["nodes"] + 1)}
        self.ports = configure(self.dir, self.options, self.address, self.nodes)
        self.start_munged()
        if self.options["accounting"]:
            self.start_mariadbd()
            self.start_controller("slurmdbd", "-D")
        self.start_controller("slurmctld", "-D", "-i")
        for name in self.nodes:
            self.start_node(name)
        for name in self.nodes:
            self.wait_for_node(name)

    def make_network(self) -> str:
        """The first three bytes of the addresses in a new network.

        It is a bridge in a network name space of its own (the hub: Slurm's controllers listen there) with one
        cable to this machine. The kernel removes all of it with the hub's last process.
        """
        bridge = "ip link set lo up && ip link add br0 type bridge && ip link set br0 up && echo up && exec sleep inf"
        self.hub = self.popen("hub", "unshare", "--net", "sh", "-c", bridge, stdout=subprocess.PIPE)
        assert self.hub.stdout
        if not self.hub.stdout.readline():
            raise ServerError(f"no network: {(self.dir / 'log' / 'hub.out').read_text()}")
        for number in random.sample(range(256), 256):
            try:  # the name of our end of the cable claims the addresses among all clusters
                self.sh(f"ip link add slurm{number} type veth peer name host netns {self.hub.pid}")
            except ServerError as error:
                refused = error
                continue
            self.sh("ip link set host master br0 up", hub=True)
            self.sh(f"ip addr add 198.18.{number}.2/24 dev br0", hub=True)
            self.sh(f"ip addr add 198.18.{number}.1/24 dev slurm{number}")
            self.sh(f"ip link set slurm{number} up")
            return f"198.18.{number}"
        raise ServerError(f"no network: {refused}")

    def start_munged(self) -> None:
        place, log = f"{self.dir}/munge.socket", f"--log-file={self.dir}/log/munged.log"
        files = [f"--{name}-file={self.dir}/munge.{name}" for name in ("key", "pid", "seed")]
        munged = self.popen("munged", "munged", "--foreground", "--force", "--socket", place, log, *files)
        self.wait("munged", lambda: connects(place), munged)

    def start_mariadbd(self) -> None:
        place = self.env["MYSQL_UNIX_PORT"]
        command = ["mariadbd", "--no-defaults", f"--user={user()}", f"--socket={place}", f"--tmpdir={self.dir}"]
        command += [f"--datadir={self.dir}/db", f"--pid-file={self.dir}/db.pid", *FRUGAL]
        self.wait("mariadbd", lambda: connects(place), self.popen("mariadbd", *command))

    def start_controller(self, name: str, *arguments: str) -> None:
        daemon = self.popen(name, *self.in_hub(), name, *arguments)
        self.wait(name, lambda: connects((self.address, self.ports[name])), daemon)

    def stop(self) -> None:
        kill_descendants(os.getpid())
        with contextlib.suppress(ChildProcessError):
            while True:  # reap, lest they stay as zombies where nobody else does
                os.wait()
        try:
            if logs := self.options["logs"]:
                shutil.copytree(self.dir / "log", logs, dirs_exist_ok=True)
                for path in self.dir.glob("*.conf"):
                    shutil.copy(path, logs)
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------- nodes

    def start_node(self, name: str) -> None:
        given = json.dumps([name, self.nodes[name], str(self.dir), self.isolated])
        command = [*(APART if self.isolated else []), sys.executable, "-I", str(NODE), given]
        node = self.popen(f"slurmd-{name}", *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.running[name] = node
        assert node.stdin
        assert node.stdout
        if not node.stdout.readline():
            self.wait(f"slurmd-{name}", lambda: False, node)
        if self.isolated:
            # The same card every time: else its peers write to the one of before for seconds.
            card = "02:00:" + socket.inet_aton(self.nodes[name]).hex(":")
            self.sh(f"ip link add {name} type veth peer name eth0 address {card} netns {node.pid}", hub=True)
            self.sh(f"ip link set {name} master br0 up", hub=True)
        node.stdin.close()
        node.stdout.close()
        self.wait(f"slurmd-{name}", lambda: connects((self.nodes[name], self.ports[name])), node)

    def wait_for_node(self, name: str) -> None:
        """Wait until Slurm has the node; if it has not noticed its absence, that is at once."""

        def usable() -> bool:
            try:
                state = self.sh(f"sinfo -h -N -n {name} -p main -o %T").strip()
            except ServerError:  # a busy machine: Slurm gives up on itself after MessageTimeout
                return False
            return state in ("idle", "mixed", "allocated", "completing")  # with an asterisk: it does not answer

        self.wait(f"slurmd-{name}", usable, self.running[name])

    def expect_a_loss(self) -> None:
        """Slurm is to notice soon that a node is lost."""
        if not self.frozen and len(self.running) == len(self.nodes):
            self.set_patience(IMPATIENCE)

    def expect_no_loss(self) -> None:
        """Where all nodes are well again, Slurm is to wait for an answer however busy the machine is."""
        if not self.frozen and len(self.running) == len(self.nodes):
            self.set_patience(PATIENCE)

    def set_patience(self, seconds: int) -> None:
        set_patience(self.dir, seconds)
        self.sh("scontrol reconfigure")

    def drop_node(self, name: str) -> None:
        self.expect_a_loss()
        self.frozen.discard(name)
        node = self.running.pop(name)
        if self.isolated:
            self.sh(f"ip link delete {name}", hub=True)  # first, so that no connection is closed: silence
        kill_descendants(node.pid)
        node.kill()
        node.wait()

    def restore_node(self, name: str) -> None:
        if name in self.running:
            raise ServerError("it runs")
        self.start_node(name)
        self.wait_for_node(name)
        self.expect_no_loss()

    def freeze_node(self, name: str) -> None:
        self.expect_a_loss()
        self.frozen.add(name)
        os.kill(self.slurmd(name), signal.SIGSTOP)

    def thaw_node(self, name: str) -> None:
        os.kill(self.slurmd(name), signal.SIGCONT)
        self.wait_for_node(name)
        self.frozen.discard(name)
        self.expect_no_loss()

    def slurmd(self, name: str) -> int:
        found = [pid for pid in descendants(self.running[name].pid) if command_of(pid) == "slurmd"]
        if not found:
            raise ServerError("it has no slurmd")
        return found[0]

    def tasks(self, name: str) -> list[int]:
        """The processes of jobs on a node; none on one that is down."""
        if name not in self.running:
            return []
        within = descendants(self.running[name].pid)
        if self.isolated:
            within = within[1:]  # the node's init
        return [pid for pid in within if command_of(pid) not in ("", "slurmd", "slurmstepd")]


ACTIONS: dict[str, Callable[[Server, str], Any]] = {
    "drop": Server.drop_node,
    "restore": Server.restore_node,
    "freeze": Server.freeze_node,
    "thaw": Server.thaw_node,
    "tasks": Server.tasks,
}


def tell(**reply: Any) -> None:
    print(json.dumps(reply), flush=True)


def answer(server: Server, request: dict[str, str]) -> None:
    try:
        tell(value=ACTIONS[request["do"]](server, request["node"]))
    except (ServerError, KeyError) as error:
        tell(error=f"{request}: {error!r}" if isinstance(error, KeyError) else f"{request}: {error}")


def serve(server: Server) -> None:
    caller, text = os.getppid(), b""
    server.start()
    tell(nodes=list(server.nodes), dir=str(server.dir), address=server.outside)
    while os.getppid() == caller:  # a fork of the caller may hold the pipe open after its death
        if not select.select([0], [], [], 1)[0]:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, text = (text + chunk).split(b"\n")
        for line in lines:
            answer(server, json.loads(line))


def main() -> None:
    adopt_orphans()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, lambda *_: sys.exit())  # also undoes an inherited "ignore" for the jobs
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    server = Server(json.loads(sys.argv[1]))
    try:
        serve(server)
    except ServerError as error:
        tell(error=str(error))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
