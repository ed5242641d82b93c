"""A sweep as Slurm arrays: one run folder per point, throttled, finished points left out."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dist_dash.cluster.job import TrainJob
from dist_dash.cluster.job_plan import JobPlan, plan_job, print_plan
from dist_dash.cluster.sbatch import JobBatch
from dist_dash.cluster.site import Site, site_from
from dist_dash.cluster.submission import (
    check,
    frozen_arguments,
    max_array_size,
    nothing_left,
    submit,
    with_members,
)
from dist_dash.cluster.sweep import SweepPoint, points
from dist_dash.cluster.sweep import check as check_points
from dist_dash.errors import BadInput, require_count
from dist_dash.recipe.parsing import Command
from dist_dash.recipe.recipe_of_run import finished_before
from dist_dash.recipe.run_names import default_sweep
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.states import UNDER_WAY, states
from dist_dash.runs.view import watch


def submit_sweep(options: argparse.Namespace, base: Sequence[str]) -> int:
    """Check every point, then submit those that are neither finished nor under way.

    Args:
        options: of the command line: the site's and `sweep`, `folder`, `parallel`, `scatter`, `watch`, `dry_run`.
        base: arguments of `dist-dash train` that all points share.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: a point cannot be run, or Slurm refuses it; nothing was submitted.
    """
    require_count("parallel", options.parallel)
    site, grid = site_from(options), points(base, options.sweep)
    commands = check_points(grid)
    _refuse_for_one_run(commands[0], base)
    folder = Path(options.folder or default_sweep(base)).absolute()
    plans = [plan_job(dataclasses.replace(c, run=folder / p.name), site) for p, c in zip(grid, commands, strict=True)]
    for planned in plans:
        _refuse_finished_otherwise(planned)
    logs = folder / "slurm"
    print_plan(_largest(plans), logs)
    tasks = [task for point, one in zip(grid, plans, strict=True) for task in _tasks(point, one, options.scatter)]
    left = tasks if options.dry_run else _left_to_do(tasks)
    count = f"{len(grid)} points, {len(tasks)} jobs"
    print(f"sweep    {count}; {len(tasks) - len(left)} finished or under way are left out")
    if options.dry_run:
        for batch in _batches(folder.name, left, logs, options.parallel):
            print(f"\n{batch.script()}")
        return 0
    check(_batches(folder.name, left, logs, options.parallel))
    if left:
        with nothing_left(folder):
            frozen = [dataclasses.replace(task, arguments=frozen_arguments(task.arguments, logs)) for task in left]
            names = submit(_batches(folder.name, frozen, logs, options.parallel))
        parents = list(dict.fromkeys(name.partition("_")[0] for name in names))
        calls = f"{len(parents)} call{'s'[: len(parents) != 1]} of sbatch"
        print(f"submitted {len(names)} jobs by {calls}: {', '.join(parents)}")
    print(f"to follow: dist-dash runs {folder} --watch")
    return watch(folder) if options.watch else 0


def _refuse_for_one_run(command: Command, base: Sequence[str]) -> None:
    """Refuse what makes sense for a single run only."""
    given = {"run": any(word.partition("=")[0] == "--run" for word in base), "fresh": command.fresh}
    given |= {"member": command.member is not None, "extend": command.extend}
    instead = {"run": "--folder says where the runs go", "fresh": "remove its folder", "member": "use --scatter"}
    instead["extend"] = "train one run on at a time"
    for name, is_given in given.items():
        if is_given:
            raise BadInput(f"{name}: not allowed in a sweep; {instead[name]}")


def _refuse_finished_otherwise(planned: JobPlan) -> None:
    """Refuse a point whose folder holds a finished run of other settings, also of members that were trained alone."""
    folder = RunFolder(planned.command.run)
    finished_before(planned.command, planned.members, planned.replicas)
    for member in [] if folder.done.exists() else folder.members():
        alone = dataclasses.replace(planned.command, run=folder.member(member).path, member=member)
        finished_before(alone, 1, planned.replicas)


def _largest(plans: Sequence[JobPlan]) -> JobPlan:
    """Of the sweep's methods, the one that needs most memory: what fits it fits all."""
    kinds = {type(one.command.recipe.method): one for one in reversed(plans)}
    return max(kinds.values(), key=lambda one: one.memory.total if one.memory else 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One job of the sweep, before it is submitted.

    Args:
        run: its run folder.
        arguments: of `dist-dash train`.
        site: the resources that it needs.
        joins: the folder in which a member that is trained alone meets the others.
    """

    run: Path
    arguments: tuple[str, ...]
    site: Site
    joins: Path | None = None


def _tasks(point: SweepPoint, planned: JobPlan, scatter: bool) -> list[Task]:
    """A point as one gang; or, where its members need not meet and that is wanted, as one job per member."""
    run, members = planned.command.run, planned.members
    arguments = with_members(point.arguments, members)
    recipe = planned.command.recipe
    if not scatter or members == 1 or recipe.method.exchanges or recipe.members_per_rank > 1:
        return [Task(run, arguments, planned.site)]
    share = share_of(planned.site, members)
    own = RunFolder(run).member
    return [Task(own(i).path, (*arguments, f"--member={i}"), share, run) for i in range(members)]


def share_of(site: Site, members: int) -> Site:
    """What one member's replicas need of the resources of all."""
    return site.for_ranks(site.ranks // members)


def _left_to_do(tasks: Sequence[Task]) -> list[Task]:
    """Those that are neither finished nor under way, and one member of each ensemble that only lacks its join."""
    todo = [task for task in tasks if not (task.joins and RunFolder(task.joins).done.exists())]
    found = dict(zip(todo, (run.state for run in states([task.run for task in todo])), strict=True))
    left = [task for task in todo if found[task] not in ("done", *UNDER_WAY)]
    for folder in dict.fromkeys(task.joins for task in todo if task.joins):
        members = [task for task in todo if task.joins == folder]
        if all(found[task] == "done" for task in members):
            left.append(members[0])
    return left


def _batches(name: str, tasks: Sequence[Task], logs: Path, parallel: int | None) -> list[JobBatch]:
    """One array per kind of resources, split where Slurm's arrays are too small."""
    size, found = max_array_size(), list[JobBatch]()
    for site in dict.fromkeys(repr(task.site) for task in tasks):
        own = [task for task in tasks if repr(task.site) == site]
        attempts = own[0].site.attempts
        jobs = tuple(
            TrainJob(str(t.run), t.arguments, attempts, None if t.joins is None else str(t.joins)) for t in own
        )
        found += JobBatch(name, jobs, own[0].site, logs, parallel).split(size)
    return found
