"""What came of a scaling study: its finished runs, read, summarised, written, shown; the others, named."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import torch
from rich.console import Console

from dist_dash.cluster.scaling.here import Task
from dist_dash.cluster.scaling.points import Floats, Point, read_updates, rows
from dist_dash.cluster.scaling.report import table, write
from dist_dash.cluster.scaling.study import Study
from dist_dash.files import read_json
from dist_dash.runs.record import say


def collect(study: Study) -> bool:
    """Read what the finished runs have recorded, write the files, show it; whether all runs are finished.

    Raises:
        BadInput: a finished run's files cannot be read.
    """
    options, measured, unfinished = study.options, dict[Point, list[dict[str, Floats]]](), list[Task]()
    environments = []
    for task in study.tasks:
        found = None if task.left else read_updates(task.folder.metrics, options.warm_up)
        if found is None or not len(found["step_seconds"]):
            unfinished.append(task)
            continue
        measured.setdefault(task.run.point, []).append(found)
        environments.append(read_json(task.folder.environment, task.run.name))
    states = _states(unfinished)
    if not measured:
        say(f"scaling: nothing to show yet; not finished: {states}")
        return False
    notes = _notes(study, environments)
    notes += [f"Not finished, left out: {states}."] if unfinished else []
    facts = {**_facts(study, environments), "notes": notes}
    found_rows = rows(study.grid, measured)
    content = write(study.folder, study.grid, found_rows, facts)
    if options.json:
        print(json.dumps(content))
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(table(found_rows, options.repeats, notes), soft_wrap=False)
    say(f"scaling: {study.folder}/scaling.csv, .json, .png, .svg")
    return not unfinished


def _facts(study: Study, environments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `scaling.json` says beside the rows."""
    options, first = study.options, study.commands[study.grid.points()[0]]
    names = ("steps", "warm_up", "repeats", "executor")
    environment = {name: value for name, value in environments[0].items() if name not in ("layout", "total_steps")}
    return {
        "title": f"{type(first.recipe.method).__name__}, {environment.get('device')}",
        "settings": {**dataclasses.asdict(study.grid), **{name: getattr(options, name) for name in names}},
        "recipe": first.resolved,
        "environment": environment,
        "devices": sorted({str(one.get("device")) for one in environments}),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _notes(study: Study, environments: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader of the table has to know."""
    options, grid = study.options, study.grid
    recipe = study.commands[grid.points()[0]].recipe
    method = type(recipe.method).__name__
    devices, threads = (sorted({str(one.get(name)) for one in environments}) for name in ("device", "threads"))
    notes = [
        f"{method}; {options.repeats} × {options.steps} updates per point, the first {options.warm_up} of each run "
        f"left out; {', '.join(devices)}, {' or '.join(threads)} thread(s) per rank."
    ]
    if len(devices) > 1 or len(threads) > 1:
        notes.append("The runs did not all have the same device and threads: their times cannot be compared.")
    if recipe.method.exchanges and grid.members[0] == 1:
        notes.append(f"{method} with one member has no peers and exchanges nothing: it is the baseline.")
    if grid.replicas[-1] > 1:
        notes.append(
            "Waiting and transfer are those between members; averaging gradients over replicas is part of the step."
        )
    slots, what = (torch.cuda.device_count(), "GPUs") if torch.cuda.is_available() else (os.cpu_count() or 1, "cores")
    if options.executor == "here" and study.most_ranks > slots:
        notes.append(
            f"This machine has {slots} {what}: where there are more ranks they share them, and that is measured."
        )
    if options.executor == "slurm" and not options.exclusive and len({p.ranks for p in study.commands}) > 1:
        notes.append("Runs of different numbers of ranks may have shared a node; --exclusive keeps them apart.")
    return notes


def _states(tasks: Sequence[Task]) -> str:
    """Each run's name, what it is doing, and why."""
    from dist_dash.runs.states import states

    there = [task.folder.path for task in tasks if task.folder.path.exists()]
    known = {state.path: state for state in states(there)}
    told = []
    for task in tasks:
        found = known.get(task.folder.path)
        state, why = (found.state, found.why) if found else ("not started", "")
        if not task.left:
            why = "went on after a stop, and then had no update beyond the warm-up; remove it"
        told.append(f"{task.run.name} ({state}{': ' if why else ''}{why})")
    return ", ".join(told)
