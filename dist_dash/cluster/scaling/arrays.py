"""The runs of a scaling study as Slurm arrays, one per number of ranks: submitted all or none, and waited for."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from dist_dash.cluster.job import TrainJob
from dist_dash.cluster.sbatch import JobBatch
from dist_dash.cluster.scaling.here import Task, listening
from dist_dash.cluster.site import Site
from dist_dash.cluster.submission import max_array_size, submit
from dist_dash.errors import BadInput
from dist_dash.runs import slurm
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED
from dist_dash.runs.record import say

UNANSWERED = 20  # questions in a row that a busy controller may leave without an answer
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between questions: a controller has more to do than to answer us


def resources(site: Site, ranks: int, exclusive: bool) -> Site:
    """What a run of so many ranks needs, on as few nodes as hold them.

    Raises:
        BadInput: they do not fill their nodes.
    """
    share = site.for_ranks(ranks)
    return dataclasses.replace(share, sbatch={**site.sbatch, "exclusive": "true"}) if exclusive else share


def arrays(name: str, tasks: Sequence[Task], sites: dict[int, Site], logs: Path, parallel: int) -> list[list[JobBatch]]:
    """One array per number of ranks, each in as many parts as Slurm's limit asks for."""
    found = []
    # Sorting is stable: within an array the runs stay in the order of the rounds.
    for ranks, own in groupby(sorted(tasks, key=lambda t: t.run.point.ranks), lambda t: t.run.point.ranks):
        site = sites[ranks]
        jobs = tuple(TrainJob(str(task.folder.path), task.arguments, site.attempts) for task in own)
        found.append(JobBatch(f"{name}-{ranks}", jobs, site, logs, parallel).split(max_array_size()))
    return found


def submit_all(groups: Sequence[Sequence[JobBatch]]) -> list[str]:
    """Submit all arrays, or none; arrays of different sizes do not wait for each other.

    Returns:
        The arrays' jobs.

    Raises:
        BadInput: Slurm refuses one of them.
    """
    parents = list[str]()
    for group in groups:
        try:
            names = submit(group)
        except BaseException:  # a full disk and Ctrl-C, too
            for parent in parents:
                slurm.ask("scancel", parent)
            raise
        parents += dict.fromkeys(name.partition("_")[0] for name in names)
    return parents


def jobs_of(tasks: Sequence[Task]) -> dict[str, Task]:
    """Those that have been submitted and are not finished, by the name of their job."""
    return {str(job["job"]): task for task in tasks if task.left and (job := task.folder.submitted())}


def wait(tasks: Sequence[Task]) -> int:
    """Wait until no job of these runs is left, telling what they do.

    Returns:
        0; or 75 where a signal ended the waiting: the jobs go on.

    Raises:
        BadInput: Slurm does not answer for a long time.
    """
    told, pause, unanswered = "", FIRST_PAUSE, 0
    with listening() as stop:
        while names := jobs_of(tasks):
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
                finished = sum(not task.left for task in tasks)
                text = ", ".join(
                    [f"{finished} of {len(tasks)} runs finished", *(f"{n} {s}" for s, n in states.items())]
                )
                if text != told:
                    say(f"scaling: {text}")
                    told, pause = text, FIRST_PAUSE
                if not states:
                    break
            end = time.monotonic() + pause
            while time.monotonic() < end:
                if stop.made:
                    return TO_BE_CONTINUED
                time.sleep(0.2)
            pause = min(LONGEST_PAUSE, 1.5 * pause)
    return FINISHED
