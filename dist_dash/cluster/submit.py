"""One run, planned, tried and submitted; or run here by the same job object."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from dist_dash.cluster.job import TrainJob
from dist_dash.cluster.job_plan import JobPlan, plan_job, print_plan
from dist_dash.cluster.sbatch import JobBatch
from dist_dash.cluster.site import site_from
from dist_dash.cluster.submission import NEVER, check, frozen_arguments, nothing_left, submit, with_members
from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.recipe.recipe_of_run import finished_before
from dist_dash.runs import slurm
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED
from dist_dash.runs.states import UNDER_WAY, states


def submit_run(options: argparse.Namespace, recipe_arguments: Sequence[str]) -> int:
    """Plan, try and submit one run; prints the plan and how to follow it.

    Args:
        options: of the command line: the site's and `dry_run`, `executor`.
        recipe_arguments: of `dist-dash train`.

    Returns:
        The exit status: 0, or the run's where it was run here.

    Raises:
        BadInput: what was asked for cannot be run, or Slurm refuses it; nothing was submitted.
    """
    command, site = parse_command(recipe_arguments), site_from(options)
    planned = plan_job(command, site)
    print_plan(planned, RunFolder(command.run).jobs)
    folder = RunFolder(command.run.absolute())
    if finished_before(command, planned.members, planned.replicas):
        print(f"{command.run} is finished already; --fresh starts over, --extend with more epochs trains on")
        return FINISHED
    if command.fresh:  # held until the folder has been cleared, which waits until Slurm has accepted the job
        site = dataclasses.replace(site, sbatch={**site.sbatch, "hold": "true"})
    batch = JobBatch(folder.path.name, (TrainJob(str(folder.path), (), site.attempts),), site, folder.jobs)
    if options.dry_run:
        print(f"\n{batch.script()}")
        return 0
    if options.executor == "slurm":
        check([batch])
        refuse_if_under_way(folder)
    with nothing_left(folder.path):
        arguments = train_arguments(recipe_arguments, planned, folder.jobs)
        batch = dataclasses.replace(batch, jobs=(dataclasses.replace(batch.jobs[0], arguments=arguments),))
        if options.executor == "slurm":
            (name,) = submit([batch])
            if command.fresh:
                _start_over_and_release(folder, name)
    if options.executor == "local":
        return _run_here(batch, command)
    print(f"\nsubmitted as job {name}; to follow it:")
    run, log = shlex.quote(str(command.run)), shlex.quote(f"{folder.jobs}/{name}_0_log.out")
    print(f"  dist-dash runs {run}\n  tail -f {log}")
    return 0


def train_arguments(arguments: Sequence[str], planned: JobPlan, folder: Path) -> tuple[str, ...]:
    """What the job gives to `dist-dash train`: the recipe as it is now, and the number of members that was planned."""
    frozen = frozen_arguments(arguments, folder)
    return frozen if planned.command.member is not None else with_members(frozen, planned.members)


def refuse_if_under_way(folder: RunFolder) -> None:
    """Raise `BadInput` where the run waits or runs already."""
    (found,) = states([folder.path])
    if found.state in UNDER_WAY:
        job = f" as job {found.job}; `scancel {found.job}`" if found.job else "; stop it"
        raise BadInput(f"run: {folder.path} is {found.state}{job} or use another --run")


def _start_over_and_release(folder: RunFolder, held: str) -> None:
    """Clear a run that starts over, and let its job begin."""
    try:
        start_over(folder)
    except BaseException:
        slurm.ask("scancel", held)
        raise
    slurm.ask("scontrol", "release", held)


def start_over(folder: RunFolder) -> None:
    """Clear a run before its job begins: a job that is requeued would clear it again."""
    with OwnedFolder(folder.path).held() as owned:
        owned.clear()


def _run_here(batch: JobBatch, command: Command) -> int:
    """The job object on this machine, by submitit's local executor; shows rank 0's log until it ends."""
    site, (job,) = batch.site, batch.jobs
    if site.nodes != 1:
        raise BadInput(f"nodes: {site.nodes} is not allowed with --executor local; it must be 1")
    folder = RunFolder(job.run)
    if command.fresh:
        start_over(folder)
    done_before = folder.done.stat().st_mtime_ns if folder.done.exists() else None  # of a run that is extended
    executor = submitit.AutoExecutor(batch.logs, cluster="local", local_max_num_timeout=NEVER)
    resources = {"tasks_per_node": site.ranks_per_node, "gpus_per_node": site.gpus_per_node}
    executor.update_parameters(name=batch.name, timeout_min=site.minutes, stderr_to_stdout=True, **resources)
    # A terminal's Ctrl-C reaches all processes: this one alone listens, and stops the others by SIGTERM.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        started: Any = executor.submit(job)
    finally:
        signal.signal(signal.SIGINT, before)
    shown, signalled = 0, False
    with StopRequest().listening(lambda text: None) as stop:
        while True:
            ended = started.done()
            if stop.made and not signalled:
                signalled = True
                started._process.send_signal(signal.SIGTERM)  # which it hands on to the ranks
            text = started.paths.stdout.read_text() if started.paths.stdout.exists() else ""
            sys.stderr.write(text[shown:])
            shown = len(text)
            if ended:
                break
            time.sleep(0.2)
    if folder.done.exists() and folder.done.stat().st_mtime_ns != done_before:
        return FINISHED
    return TO_BE_CONTINUED if folder.to_continue.exists() else 1
