"""A study from start to end: choose every method's settings on validation data, run all seeds, compare, report."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import yaml

from dist_dash.analysis.flatness.measure import FlatnessOptions
from dist_dash.analysis.flatness.run import measure_run
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput, require, require_count
from dist_dash.files import only_one, read_json, write_atomically
from dist_dash.recipe.components import code_named
from dist_dash.runs.preemption import StopRequest
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED, say_at_once
from dist_dash.runs.record import say
from dist_dash.study.choice import Choice
from dist_dash.study.execute import Executor
from dist_dash.study.study_plan import BASE, PlannedRun, StudyPlan, check_commands, read_plan
from dist_dash.study.study_results import write_results

LOCK, PLAN = "study.lock", "study.yaml"


def run_study(study: str, folder: str | None, results: str | None, groups: int | None, dry_run: bool) -> int:
    """Run what is left of a study and write its results.

    Args:
        study: its file.
        folder: of all runs; None: `runs/<name of the file>`.
        results: folder for what came of it; None: the same.
        groups: runs at a time; None: as many as the cores allow.
        dry_run: check everything, run nothing.

    Returns:
        0: the results are written; 75: stopped, the same command goes on.

    Raises:
        BadInput: the study or one of its recipes is wrong, or the folder holds another study: nothing was run. Or a
            run refused its input.
        RunFailed: a run broke twice.
    """
    with StopRequest().listening(_tell) as stop:  # before anything is begun that a signal would leave behind
        path = Path(study)
        plan, text = read_plan(path), path.read_text()
        runs = Path(folder or f"runs/{path.stem}")
        target = Path(results) if results else runs
        cores = os.cpu_count() or 1
        groups = max(1, cores // plan.members) if groups is None else groups
        require_count("groups", groups)
        for field, place in (("folder", runs), ("results", target)):
            require(_may_be_a_folder(place), field, str(place), "a folder, or new in one that may be written to")
        _check_same(plan, runs)
        with tempfile.TemporaryDirectory() as temporary:
            write_recipe(plan, Path(temporary))
            check_commands(plan, Path(temporary))
        trials, reported = len(plan.trials(runs)), len(plan.methods) * len(plan.conditions) * len(plan.seeds)
        say(f"study: {trials} runs to choose settings, {reported} to report; {groups} at a time, in {runs}")
        if dry_run:
            return FINISHED
        with only_one(runs, LOCK, "study"):
            _check_same(plan, runs)  # again: nobody else can change it now
            write_atomically(runs / PLAN, text)
            threads = max(1, cores // (groups * plan.members))
            with Executor(runs, plan.members, groups, threads, stop, trials + reported) as executor:
                choice = _run(plan, runs, executor)
            if choice is None:
                return TO_BE_CONTINUED
            write_results(plan, choice, runs, target)
    return FINISHED


def _run(plan: StudyPlan, folder: Path, executor: Executor) -> Choice | None:
    """Choose the settings and run with them; None where a stop came in between."""
    write_recipe(plan, folder)
    choice = Choice(plan, folder)
    if not executor.run(plan.trials(folder), choice.score):
        return None
    write_atomically(folder / "selection.json", json.dumps(choice.as_json(), indent=1))
    runs = plan.reported(folder, choice.chosen())
    write_groups(plan, folder, {name: (condition, method) for name, (condition, method, _) in runs.items()})

    def measure(run: PlannedRun) -> None:
        finished = FinishedRun(folder / run.name)
        finished.allow_code = code_named(finished.recipe)  # of the user's own study
        if plan.flatness is not None and not _is_measured(finished, plan.flatness):
            measure_run(finished, plan.flatness)

    return choice if executor.run([run for _, _, run in runs.values()], measure) else None


def _is_measured(run: FinishedRun, options: FlatnessOptions) -> bool:
    """Whether a run's flatness is known, with these options: a study may be given others later."""
    if not run.folder.flatness.exists():
        return False
    found = read_json(run.folder.flatness, "flatness")
    wanted = {name: value for name, value in asdict(options).items() if name != "batch_size"}
    return isinstance(found, dict) and wanted == {name: found.get(name) for name in wanted}


def write_recipe(plan: StudyPlan, folder: Path) -> None:
    """Write what all runs share, as a recipe."""
    write_atomically(folder / BASE, yaml.safe_dump(dict(plan.recipe), sort_keys=False))


def write_groups(plan: StudyPlan, folder: Path, runs: dict[str, tuple[str, str]]) -> None:
    """Write `groups.json`, from which `compare` and `report` know what the runs are called."""
    named = {name: {"group": method, "section": condition} for name, (condition, method) in runs.items()}
    content = {"title": plan.title, "baselines": list(plan.baselines), "notes": list(plan.notes), "runs": named}
    write_atomically(folder / "groups.json", json.dumps(content, indent=1))


def _may_be_a_folder(path: Path) -> bool:
    """Whether it is a folder that may be written to, or can be made one."""
    above = next(place for place in (path, *path.absolute().parents) if place.exists())
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def _check_same(plan: StudyPlan, folder: Path) -> None:
    if (folder / PLAN).exists():
        if read_plan(folder / PLAN) != plan:
            raise BadInput(f"folder: {folder} holds another study ({PLAN} differs); use another --folder")
    elif folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
        raise BadInput(f"folder: {folder} holds files that are not a study's; it must be new or a study's")


def _tell(text: str) -> None:
    say_at_once(f"study: {text.partition(':')[0]}: stopping; run the same command to continue")
