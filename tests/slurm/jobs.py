"""Small runs as Slurm jobs: submitted as a user does, slowed down while a file lies there, compared to the bit."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dist_dash.commands.cli import main
from dist_dash.files import write_atomically
from dist_dash.runs.folder import RunFolder
from tests.e2e.runs import SMALL, assert_same_run, lines_of, step_of
from tests.e2e.test_launch import LIGHT
from tests.slurm.cluster import LIMIT, SlurmCluster, until

ROOT = Path(__file__).parents[2]
STEPS = 60


class Said:
    """What a command of ours printed, and its exit status."""

    def __init__(self, *arguments: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.status = main(arguments)
        self.out, self.err = out.getvalue(), err.getvalue()


class SlurmRun:
    """A run that is to be disturbed. Its updates are slow as long as `hold` lies beside it.

    Args:
        cluster: where it runs.
        path: the run folder.
        members: of the ensemble, one task each.
        nodes: how many.
    """

    def __init__(self, cluster: SlurmCluster, path: Path, members: int = 2, nodes: int = 2) -> None:
        self.cluster, self.path, self.members, self.nodes = cluster, path, members, nodes
        self.folder, self.hold = RunFolder(path), path.with_name(f"hold-{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.hold.touch()

    @property
    def recipe(self) -> list[str]:
        """Of `dist-dash train`: neither scikit-learn nor DeepSpeed, which take seconds to import."""
        hold = ["--engine=tests.e2e.faults.Held", f"--engine.sign={self.hold}"]
        return [*SMALL, *LIGHT, *hold, f"--max_steps={STEPS}", f"--members={self.members}"]

    def slow(self, seconds: float) -> None:
        """Make each update take so much longer."""
        write_atomically(self.hold, f"{seconds} 0")

    def submit(self, *options: str) -> SlurmRun:
        with self.cluster.activated():
            said = Said("submit", *self.resources(), *self.recipe, *options, f"--run={self.path}")
        assert said.status == 0, said.err
        return self

    def resources(self) -> list[str]:
        return [
            f"--nodes={self.nodes}",
            f"--tasks-per-node={self.members // self.nodes}",
            "--time=60",
            f"--environment={json.dumps({'PYTHONPATH': str(ROOT)})}",
        ]

    @property
    def job(self) -> str:
        return str(self.folder.submitted()["job"])

    @property
    def state(self) -> str:
        return self.cluster.run("squeue", "-h", "-j", self.job.partition("_")[0], "-o", "%T")

    @property
    def step(self) -> int:
        return step_of(self.path)

    def until_step(self, step: int, seconds: float = LIMIT) -> SlurmRun:
        """Until it has come that far; if it was to be disturbed, it then takes a second per update."""
        if self.hold.exists():
            write_atomically(self.hold, f"1 {step}")
        self.until(f"step {step}", lambda: self.step >= step, seconds)
        return self

    def until(self, what: str, test: Callable[[], Any], seconds: float = LIMIT) -> float:
        """Wait; the seconds that it took."""
        started = time.monotonic()
        until(what, test, seconds)
        return time.monotonic() - started

    def until_state(self, state: str, seconds: float = LIMIT) -> float:
        return self.until(f"{state} of job {self.job}", lambda: state in self.state, seconds)

    def until_done(self, seconds: float = LIMIT) -> SlurmRun:
        """Full speed to the end of the job."""
        self.hold.unlink(missing_ok=True)
        self.until("DONE", self.folder.done.exists, seconds)
        self.until("the end of the job", lambda: not self.cluster.run("squeue", "-h"))
        return self

    def events(self) -> list[str]:
        return [line["text"] for line in lines_of(self.path) if line["kind"] == "event"]

    def continued_at(self) -> list[int]:
        """The steps at which the run went on."""
        return [int(found[1]) for text in self.events() if (found := re.search(r"continuing .* at step (\d+)", text))]

    def log(self, rank: int = 0) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.jobs.glob(f"*_{rank}_log.out")))

    def same_as(self, undisturbed: Path) -> None:
        assert_same_run(self.path, undisturbed)


def script(name: str, *arguments: str) -> list[str]:
    """A command line of one of the scripts of `slurm/`."""
    return [sys.executable, f"slurm/{name}", *arguments]
