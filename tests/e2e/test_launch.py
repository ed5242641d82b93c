"""The real launchers, as a user types them: torchrun, two nodes of the script, the command that starts local ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.e2e.runs import SMALL, assert_same_run, finish, step_of
from tests.support.ranks import LIMIT, free_port

ROOT = Path(__file__).parents[2]
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Neither scikit-learn nor DeepSpeed, which take seconds to import: here it is the launching that is tested.
LIGHT = [
    "--data=Synthetic",
    "--data.size=8",
    "--data.channels=1",
    "--data.train=320",
    "--data.test=100",
    "--max_steps=60",
    "--record.evaluate_every=0",
    "--checkpoints.every_epochs=0",
    "--checkpoints.every_steps=20",
]


class Launched:
    """A command that runs on its own until `wait` or the end of the block, which leaves none of its processes."""

    def __init__(self, *command: str, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        kept |= {"PATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        streams = {"stdout": self._output, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        self._process = psutil.Popen(command, cwd=ROOT, env=kept, **streams)
        self._family: list[psutil.Process] = []

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        for process in [self._process, *self._family]:
            if process.is_running():
                process.kill()
        self._process.wait(LIMIT)
        self._output.close()

    def look(self) -> None:
        """Remember the processes that there are by now."""
        if self._process.is_running():
            self._family = [*{*self._family, *self._process.children(recursive=True)}]

    def trainers(self) -> list[psutil.Process]:
        """The command itself and its ranks, without their data workers."""
        return [p for p in [self._process, *self._process.children()] if "dist_dash" in p.cmdline()]

    def until_step(self, run: Path, step: int, deadline: float = LIMIT) -> None:
        """Until a run has come that far; it goes on slowly."""
        run.with_name("hold").write_text(f"1 {step}")
        end = time.monotonic() + deadline
        while step_of(run) < step:
            assert self._process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.02)
        self.look()

    def until_torch(self) -> None:
        """Until the import of torch has begun, which takes long."""
        end = time.monotonic() + LIMIT
        while not any("/torch/" in region.path for region in self._process.memory_maps()):
            assert time.monotonic() < end, self.output
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, deadline: float = LIMIT) -> int:
        """The exit status; by then, every process that was there must be gone."""
        status = self._process.wait(deadline)
        left = psutil.wait_procs(self._family, LIMIT)[1]
        assert not left, (left, self.output)
        return status

    @property
    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()


def recipe(run: Path, *arguments: str) -> list[str]:
    hold = ["--engine=tests.e2e.faults.Held", f"--engine.sign={run.with_name('hold')}"]
    return [*SMALL, *LIGHT, *hold, f"--run={run}", *arguments]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run folder; updates are slow as long as the file `hold` beside it is there, and it is."""
    (tmp_path / "hold").touch()
    yield tmp_path / "run"
    (tmp_path / "hold").unlink(missing_ok=True)


def undisturbed(beside: Path, world: int, members: int) -> Path:
    run = beside.with_name("undisturbed")
    finish(run, world, members, *recipe(run)[len(SMALL) :])
    return run


def test_torchrun(run: Path) -> None:
    run.with_name("hold").unlink()
    torchrun = ["torchrun", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2", "-m", "dist_dash"]
    with Launched(*torchrun, "--", "train", *recipe(run)) as launched:
        assert launched.wait() == 0, launched.output
    assert_same_run(run, undisturbed(run, 2, 2))
    layout = json.loads((run / "environment.json").read_text())["layout"]
    assert (layout["world"], layout["members"], layout["ranks_on_first_host"]) == (2, 2, 2)


def test_two_nodes_stop_together_and_go_on(run: Path) -> None:
    script = ["bash", "launch/torchrun_multi_node.sh", *recipe(run, "--members=2")]

    def nodes(stack: ExitStack) -> list[Launched]:
        head = f"127.0.0.1:{free_port()}"
        environment = {"NODES": "2", "HEAD": head, "ADDRESS": "127.0.0.1", "RANKS": "2", "JOB": run.parent.name}
        return [stack.enter_context(Launched(*script, **environment)) for _ in range(2)]

    with ExitStack() as stack:
        first, second = nodes(stack)
        first.until_step(run, 3)
        second.look()
        second.signal(signal.SIGTERM)
        assert (first.wait(), second.wait()) == (75, 75), first.output + second.output
    assert (run / "CONTINUE").exists()
    assert not (run / "DONE").exists()
    assert 3 <= step_of(run) < 60
    run.with_name("hold").unlink()
    with ExitStack() as stack:
        first, second = nodes(stack)
        assert (first.wait(), second.wait()) == (0, 0), first.output + second.output
        assert f"continuing {run} at step " in first.output + second.output
    assert (run / "DONE").exists()
    assert not (run / "CONTINUE").exists()
    assert_same_run(run, undisturbed(run, 4, 2))
    layout = json.loads((run / "environment.json").read_text())["layout"]
    assert (layout["world"], layout["replicas"], layout["ranks_on_first_host"]) == (4, 2, 2)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_look_at_the_stacks_and_a_stop_by_another_signal(number: signal.Signals, run: Path) -> None:
    """`kill -QUIT` of the command and of a rank: the stacks of all threads, and the run goes on."""
    with Launched(sys.executable, "-m", "dist_dash", "train", *recipe(run), "--members=2") as launched:
        launched.until_step(run, 3)
        seen = 0
        for process in launched.trainers():
            process.send_signal(signal.SIGQUIT)
            end = time.monotonic() + LIMIT
            while launched.output.count("Current thread 0x") == seen:
                assert time.monotonic() < end, launched.output
                time.sleep(0.02)
            seen += 1
        assert seen == 3
        assert "training/train.py" in launched.output
        step = step_of(run)
        launched.until_step(run, step + 1)
        launched.signal(number)
        assert launched.wait() == 75, launched.output
        assert f"{number.name}: stopping after the next step" in launched.output
        assert "Traceback" not in launched.output
    assert (run / "CONTINUE").read_text() == f"{number.name}\n"


def test_the_command_that_starts_its_own_ranks(run: Path) -> None:
    command = [sys.executable, "-m", "dist_dash", "train", *recipe(run), "--members=2", "--replicas=2"]
    with Launched(*command) as launched:
        launched.until_step(run, 3)
        launched.signal(signal.SIGINT)
        assert launched.wait() == 75, launched.output
        assert "SIGINT: stopping after the next step" in launched.output
        assert "; run the same command to continue\n" in launched.output
        assert "Traceback" not in launched.output
    assert (run / "CONTINUE").exists()
    run.with_name("hold").unlink()
    with Launched(*command) as launched:
        assert launched.wait() == 0, launched.output
        assert "member 1" in launched.output
    assert_same_run(run, undisturbed(run, 4, 2))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "owner.json" and path.is_file()}
    with Launched(*command) as launched:
        assert launched.wait() == 0, launched.output
        assert (
            launched.output == f"{run} is finished already; --fresh starts over, --extend with more epochs trains on\n"
        )
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_stop_before_anything_has_started(run: Path) -> None:
    """Ctrl-C while the imports still take their seconds: no traceback, and the same command starts the run."""
    command = [sys.executable, "-m", "dist_dash", "train", *recipe(run), "--members=2"]
    with Launched(*command) as launched:
        launched.until_torch()
        launched.signal(signal.SIGINT)
        status = launched.wait()
        assert "Traceback" not in launched.output
        assert status == 75, launched.output
    assert not (run / "DONE").exists()


def test_a_killed_rank_0_leaves_failed_through_the_launcher(tmp_path: Path) -> None:
    """With one rank there is nobody else who could."""
    run, orders = tmp_path / "run", tmp_path / "orders"
    orders.write_text(f"0 12 {signal.SIGKILL}")
    struck = [*SMALL, *LIGHT, "--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}", f"--run={run}"]
    with Launched(sys.executable, "-m", "dist_dash", "train", *struck, "--members=1") as launched:
        assert launched.wait() == 1, launched.output
        assert "dist-dash: rank 0 was killed (SIGKILL; so does a system that runs out of memory)\n" in launched.output
    assert (run / "FAILED").read_text().startswith("rank 0 was killed (SIGKILL")
