"""The runs of a scaling study, and how they are run on this machine: one after the other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_dash.cluster.scaling.points import StudyRun
from dist_dash.errors import BadInput
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.last_lines import last_line
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import BAD_INPUT, FINISHED, TO_BE_CONTINUED
from dist_dash.runs.record import say

PATIENCE = 120.0  # seconds for a run that a killed study has left behind: it is short, and may finish


@dataclass(frozen=True)
class Task:
    """One run of a study.

    Args:
        run: which one.
        folder: where.
        arguments: of `dist-dash train`, without `--run`.
    """

    run: StudyRun
    folder: RunFolder
    arguments: tuple[str, ...]

    @property
    def left(self) -> bool:
        """Whether it is still to be done."""
        return not self.folder.done.exists()


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Take a signal as a request to stop the study."""

    def tell(text: str) -> None:
        # print could be interrupted by the signal in the middle of itself
        os.write(2, f"scaling: {text.partition(':')[0]}: stopping; run the same command to continue\n".encode())

    with StopRequest().listening(tell) as stop:
        yield stop


def start_over(folder: RunFolder) -> None:
    """Clear what an unfinished run has left: its timings would begin with a second warm-up.

    Raises:
        BadInput: it is under way, and does not end soon.
    """
    if folder.path.exists():
        owned = OwnedFolder(folder.path)
        try:
            owned.acquire(ended=slurm.is_over, patience=1.0)
        except BadInput as error:
            say(f"scaling: {error}; waiting for it")
            owned.acquire(ended=slurm.is_over, patience=PATIENCE)
        try:
            if not owned.done.exists():
                owned.clear()
        finally:
            owned.release()


def run_here(tasks: Sequence[Task], logs: Path, threads: int) -> int:
    """Run one after the other; a run that breaks is told of and does not end the study.

    Args:
        tasks: that are left.
        logs: folder for what each run prints.
        threads: per rank, the same for all points, or their times could not be compared.

    Returns:
        0; or 75 where a signal ended the study, and the run that was under way.

    Raises:
        BadInput: a run refuses its input; in its words.
    """
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with listening() as stop:
        for number, task in enumerate(tasks, 1):
            if stop.made:
                break
            start_over(task.folder)
            if not task.left:  # by a study that was killed
                continue
            say(f"scaling: run {number} of {len(tasks)}: {task.run.name}")
            log = logs / f"{task.run.name}.log"
            status = _run(task, log, environment, stop)
            if stop.made:
                break
            if status == BAD_INPUT:
                raise BadInput(f"{last_line(log)} (run {task.run.name})")
            if status != FINISHED:
                say(f"scaling: {task.run.name} ended with exit status {status}: {last_line(log)}; see {log}")
        else:
            return FINISHED
    return TO_BE_CONTINUED


def _run(task: Task, log: Path, environment: dict[str, str], stop: StopRequest) -> int:
    """The exit status of the command that starts its own local ranks; a stop is handed on to it."""
    command = [sys.executable, "-m", "dist_dash", "train", *task.arguments, f"--run={task.folder.path}"]
    with log.open("wb") as file:
        # A session of its own: Ctrl-C on the terminal reaches this process alone, which hands it on once.
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        told = False
        while True:
            if stop.made and not told:
                process.send_signal(signal.SIGTERM)
                told = True
            try:
                return process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
