"""The results of a scaling study: finished runs are read, summarised, written and shown; the others are named."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import torch
from rich.console import Console

from dist_dash.cluster.scaling.grid import Floats, ScalingPoint, read_updates, rows
from dist_dash.cluster.scaling.request import ScalingRun, ScalingStudy
from dist_dash.cluster.scaling.scaling_report import table, write
from dist_dash.files import read_json
from dist_dash.runs.record import say


def collect(study: ScalingStudy, foreseen: Mapping[ScalingPoint, float]) -> bool:
    """Read the records of the finished runs, write the files, show the table; whether all runs are finished.

    Args:
        study: that was requested.
        foreseen: per point, seconds of an update by the step model; empty without a profile.

    Raises:
        BadInput: a finished run's files cannot be read.
    """
    options, measured, unfinished = study.options, dict[ScalingPoint, list[dict[str, Floats]]](), list[ScalingRun]()
    environments = []
    for run in study.runs:
        found = None if run.left else read_updates(run.folder.metrics, options.warm_up)
        if found is None or not len(found["step_seconds"]):
            unfinished.append(run)
            continue
        measured.setdefault(run.point, []).append(found)
        environments.append(read_json(run.folder.environment, run.name))
    states = _states(unfinished)
    if not measured:
        say(f"scaling: nothing to show yet; not finished: {states}")
        return False
    notes = _notes(study, environments)
    if foreseen:
        notes.append(f"Foreseen: by the model of `dist-dash plan`, from the profile {options.profile}.")
    notes += [f"Not finished, left out: {states}."] if unfinished else []
    facts = {**_facts(study, environments), "notes": notes}
    found_rows = rows(study.grid, measured, foreseen)
    content = write(study.folder, study.grid, found_rows, facts)
    if options.json:
        print(json.dumps(content))
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(table(found_rows, options.repeats, notes), soft_wrap=False)
    say(f"scaling: {study.folder}/scaling.csv, .json, .png, .svg")
    return not unfinished


def _facts(study: ScalingStudy, environments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of `scaling.json` beside the rows."""
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


def _notes(study: ScalingStudy, environments: Sequence[dict[str, Any]]) -> list[str]:
    """Notes that a reader of the table needs."""
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


def _states(runs: Sequence[ScalingRun]) -> str:
    """Each run's name, its state, and the reason."""
    from dist_dash.runs.states import states

    known = {state.path: state for state in states([run.folder.path for run in runs if run.folder.path.exists()])}
    texts = []
    for run in runs:
        found = known.get(run.folder.path)
        state, why = (found.state, found.why) if found else ("not started", "")
        if not run.left:
            why = "continued after a stop, and then had no update beyond the warm-up; remove it"
        texts.append(f"{run.name} ({state}{': ' if why else ''}{why})")
    return ", ".join(texts)
