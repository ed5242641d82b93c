"""The runs of a scaling study as Slurm arrays, one per number of ranks: submitted all or none, and waited for."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dist_dash import slurm
from dist_dash.cluster.job import TrainJob
from dist_dash.cluster.scaling_runs import Task, listening
from dist_dash.cluster.site import Site
from dist_dash.cluster.submission import Batch, submit
from dist_dash.errors import BadInput
from dist_dash.preemption import FINISHED, TO_BE_CONTINUED
from dist_dash.record import say

UNANSWERED = 20  # questions in a row that a busy controller may leave without an answer
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between questions: a controller has more to do than to answer us


def resources(site: Site, ranks: int, exclusive: bool) -> Site:
    """What a run of so many ranks needs, on as few nodes as hold them.

    Raises:
        BadInput: they do not fill their nodes.
    """
    per_node = min(ranks, site.ranks_per_node)
    if ranks % per_node:
        raise BadInput(f"members × replicas: {ranks} ranks do not fill nodes of {per_node} ranks; use a multiple of it")
    part = per_node / site.ranks_per_node
    options: dict[str, Any] = {**site.sbatch, **({"exclusive": True} if exclusive else {})}
    return dataclasses.replace(
        site,
        nodes=ranks // per_node,
        tasks_per_node=per_node,
        gpus_per_node=max(1, round(site.gpus_per_node * part)) if site.gpus_per_node else 0,
        mem_gb=site.mem_gb and site.mem_gb * part,
        sbatch=options,
    )


def arrays(name: str, tasks: Sequence[Task], sites: dict[int, Site], logs: Path, parallel: int) -> list[list[Batch]]:
    """One array per number of ranks, each in as many parts as Slurm's limit asks for."""
    found = []
    # Sorting is stable: within an array the runs stay in the order of the rounds.
    for ranks, own in groupby(sorted(tasks, key=lambda t: t.run.point.ranks), lambda t: t.run.point.ranks):
        site = sites[ranks]
        jobs = tuple(TrainJob(str(task.folder.path), task.arguments, site.attempts) for task in own)
        found.append(Batch(f"{name}-{ranks}", jobs, site, logs, parallel).split(_array_size()))
    return found


def _array_size() -> int:
    try:
        return (slurm.limit("MaxArraySize") if slurm.available() else None) or 1001
    except BadInput:  # a script can be shown without a controller; what is to be submitted, it is asked about again
        return 1001


def submit_all(groups: Sequence[Sequence[Batch]]) -> list[str]:
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
        except BadInput:
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
