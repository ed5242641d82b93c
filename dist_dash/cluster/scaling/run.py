"""A scaling study: short runs over a grid of members × replicas, here or under Slurm; one table, one plot."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from dist_dash.cluster.scaling.collect import collect
from dist_dash.cluster.scaling.executors import arrays, jobs_of, resources, run_here, start_over, wait
from dist_dash.cluster.scaling.grid import ScalingPoint
from dist_dash.cluster.scaling.profile import name_of, read_profile
from dist_dash.cluster.scaling.request import LOCK, ScalingStudy, study_from
from dist_dash.cluster.scaling.step_model import Network, Size, Straggling, seconds_of, terms
from dist_dash.cluster.site import Site, site_from
from dist_dash.cluster.submission import check, frozen_arguments, parent_of, submit
from dist_dash.errors import BadInput
from dist_dash.files import only_one
from dist_dash.runs import slurm
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED
from dist_dash.runs.record import say


def measure_scaling(options: argparse.Namespace, base: Sequence[str]) -> int:
    """Check everything, run what is left, show what was found.

    Args:
        options: of the command line: the site's and the study's.
        base: arguments of `dist-dash train` that all runs share.

    Returns:
        0: all is measured, or submitted with --no-wait; 75: stopped, or --collect found runs that are left; 1: runs
        have failed.

    Raises:
        BadInput: nothing was run or submitted; or a run refuses what only its data can tell.
    """
    study = study_from(options, base)
    sites: dict[int, Site] = {}
    if options.executor == "slurm":
        site = site_from(options)
        sites = {ranks: resources(site, ranks, options.exclusive) for ranks in {p.ranks for p in study.commands}}
    if options.dry_run:
        return _show(study, sites)
    foreseen = _foreseen(study, sites)
    status = FINISHED
    if options.collect:
        if not (study.folder / LOCK).exists():
            raise BadInput(f"folder: {study.folder} holds no scaling study; run it without --collect first")
    else:
        status = _run(study, sites)
    if options.no_wait and options.executor == "slurm" and not options.collect:
        return status
    if collect(study, foreseen):
        return FINISHED
    return status or (TO_BE_CONTINUED if options.collect else 1)


def _foreseen(study: ScalingStudy, sites: dict[int, Site]) -> dict[ScalingPoint, float]:
    """Seconds of an update at every point, from the profile that was given; ranks here share this machine's cores."""
    if not study.options.profile:
        return {}
    found = dict[ScalingPoint, float]()
    for point, command in study.commands.items():
        profile = read_profile(Path(study.options.profile), command.resolved, any_batch=True)
        here, cores = (sites[point.ranks].ranks_per_node, None) if sites else (point.ranks, os.cpu_count())
        size = Size(point.members, point.replicas, here, cores)
        method = profile.cost(name_of(command.resolved["method"]), point.members)
        what = profile.rates, method, size, Network(), Straggling()
        found[point] = seconds_of(terms(*what, workers=command.recipe.loader.workers, batch=point.batch))
    return found


# -- running it --------------------------------------------------------------------------------------------------------


def _show(study: ScalingStudy, sites: dict[int, Site]) -> int:
    if study.options.executor == "slurm":
        for batch in arrays(study.folder.name, study.runs, sites, study.logs, study.options.parallel):
            print(f"{batch.script()}\n")
    else:
        for run in study.runs:
            print(f"dist-dash train {shlex.join([*run.arguments, f'--run={run.folder.path}'])}")
    return 0


def _run(study: ScalingStudy, sites: dict[int, Site]) -> int:
    """Run or submit what is left, and wait for it."""
    options, name = study.options, study.folder.name
    left = [run for run in study.runs if run.left]
    busy = set[str]()
    if options.executor == "slurm":
        if not slurm.available():
            raise BadInput("executor: slurm is not allowed, sbatch is not on PATH; use --executor here")
        under_way = jobs_of(left)
        alive = slurm.queue(under_way)
        busy = {run.name for job, run in under_way.items() if job in alive}
        left = [run for run in left if run.name not in busy]
        check(arrays(name, left, sites, study.logs, options.parallel))
    already = f", {len(busy)} in Slurm's hands already" if busy else ""
    say(f"scaling: {len(study.commands)} points, {len(study.runs)} runs, {len(left)} to do{already}; in {study.folder}")
    with only_one(study.folder, LOCK, "scaling"):
        study.logs.mkdir(exist_ok=True)
        left = [dataclasses.replace(run, arguments=frozen_arguments(run.arguments, study.logs)) for run in left]
        if options.executor == "here":
            threads = max(1, (os.cpu_count() or 1) // study.most_ranks)
            return run_here(left, study.logs, threads)
        for run in left:
            start_over(run.folder)
        left = [run for run in left if run.left]
        if left:
            jobs = submit(arrays(name, left, sites, study.logs, options.parallel))
            say(f"scaling: submitted {len(left)} runs as {', '.join(dict.fromkeys(map(parent_of, jobs)))}")
        return FINISHED if options.no_wait else wait(study.runs)
