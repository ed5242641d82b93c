"""Where the runs of a scaling study run: on this machine one after the other, or under Slurm as arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from dist_dash.cluster.job import TrainJob
from dist_dash.cluster.sbatch import JobBatch
from dist_dash.cluster.scaling.request import ScalingRun
from dist_dash.cluster.site import Site
from dist_dash.cluster.submission import max_array_size
from dist_dash.errors import BadInput
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.last_lines import last_line
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import BAD_INPUT, FINISHED, TO_BE_CONTINUED
from dist_dash.runs.record import say

PATIENCE = 120.0  # seconds for a run that a killed study has left behind: it is short, and may finish
UNANSWERED = 20  # questions in a row that a busy controller may leave without an answer
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between questions to the controller


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Take a signal as a request to stop the study."""

    def tell(text: str) -> None:
        # The signal could interrupt print in the middle of another print.
        os.write(2, f"scaling: {text.partition(':')[0]}: stopping; run the same command to continue\n".encode())

    with StopRequest().listening(tell) as stop:
        yield stop


def start_over(folder: RunFolder) -> None:
    """Clear an unfinished run: if it continued, its timings would contain a second warm-up.

    Raises:
        BadInput: the run is under way, and does not end soon.
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


# -- this machine ------------------------------------------------------------------------------------------------------


def run_here(runs: Sequence[ScalingRun], logs: Path, threads: int) -> int:
    """Run one after the other; a run that fails is reported and does not end the study.

    Args:
        runs: that are left.
        logs: folder for what each run prints.
        threads: per rank, the same for all points: else their times could not be compared.

    Returns:
        0; or 75 where a signal ended the study, and the run that was under way.

    Raises:
        BadInput: a run refuses its input; with the run's message.
    """
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with listening() as stop:
        for number, run in enumerate(runs, 1):
            if stop.made:
                break
            start_over(run.folder)
            if not run.left:  # finished meanwhile, by a study that was killed
                continue
            say(f"scaling: run {number} of {len(runs)}: {run.name}")
            log = logs / f"{run.name}.log"
            status = _train(run, log, environment, stop)
            if stop.made:
                break
            if status == BAD_INPUT:
                raise BadInput(f"{last_line(log)} (run {run.name})")
            if status != FINISHED:
                say(f"scaling: {run.name} ended with exit status {status}: {last_line(log)}; see {log}")
        else:
            return FINISHED
    return TO_BE_CONTINUED


def _train(run: ScalingRun, log: Path, environment: dict[str, str], stop: StopRequest) -> int:
    """The exit status of `dist-dash train`, which starts its own local ranks; a stop is passed on to it."""
    command = [sys.executable, "-m", "dist_dash", "train", *run.arguments, f"--run={run.folder.path}"]
    with log.open("wb") as file:
        # A session of its own: Ctrl-C on the terminal reaches this process alone, which passes it on once.
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        signalled = False
        while True:
            if stop.made and not signalled:
                process.send_signal(signal.SIGTERM)
                signalled = True
            try:
                return process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue


# -- Slurm -------------------------------------------------------------------------------------------------------------


def resources(site: Site, ranks: int, exclusive: bool) -> Site:
    """The resources of a run of so many ranks, on as few nodes as hold them.

    Raises:
        BadInput: the ranks do not fill their nodes.
    """
    share = site.for_ranks(ranks)
    return dataclasses.replace(share, sbatch={**site.sbatch, "exclusive": "true"}) if exclusive else share


def arrays(name: str, runs: Sequence[ScalingRun], sites: dict[int, Site], logs: Path, parallel: int) -> list[JobBatch]:
    """One array per number of ranks, in parts where Slurm's limit requires it; arrays do not wait for each other."""
    found = list[JobBatch]()
    # Sorting is stable: within an array the runs stay in the order of the rounds.
    for ranks, own in groupby(sorted(runs, key=lambda run: run.point.ranks), lambda run: run.point.ranks):
        site = sites[ranks]
        jobs = tuple(TrainJob(str(run.folder.path), run.arguments, site.attempts) for run in own)
        found += JobBatch(f"{name}-{ranks}", jobs, site, logs, parallel).split(max_array_size())
    return found


def jobs_of(runs: Sequence[ScalingRun]) -> dict[str, ScalingRun]:
    """Those runs that have been submitted and are not finished, by the name of their job."""
    return {str(job["job"]): run for run in runs if run.left and (job := run.folder.submitted())}


def wait(runs: Sequence[ScalingRun]) -> int:
    """Wait until no job of these runs is left, and print their states when they change.

    Returns:
        0; or 75 where a signal ended the waiting: the jobs go on.

    Raises:
        BadInput: Slurm does not answer for a long time.
    """
    printed, pause, unanswered = "", FIRST_PAUSE, 0
    with listening() as stop:
        while names := jobs_of(runs):
            try:
                found = slurm.queue(names)
                unanswered = 0
            except BadInput as error:
                unanswered += 1
                if unanswered >= UNANSWERED:
                    raise
                say(f"scaling: {error}; asking again")
            else:
                states = Counter(job.state.lower() for name, job in found.items() if name in names)
                finished = sum(not run.left for run in runs)
                counts = (f"{n} {state}" for state, n in states.items())
                text = ", ".join([f"{finished} of {len(runs)} runs finished", *counts])
                if text != printed:
                    say(f"scaling: {text}")
                    printed, pause = text, FIRST_PAUSE
                if not states:
                    break
            end = time.monotonic() + pause
            while time.monotonic() < end:
                if stop.made:
                    return TO_BE_CONTINUED
                time.sleep(0.2)
            pause = min(LONGEST_PAUSE, 1.5 * pause)
    return FINISHED
