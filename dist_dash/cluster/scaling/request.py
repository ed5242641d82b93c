"""A scaling study as it was requested: options, recipes, runs and folders, all checked before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dist_dash.cluster.scaling.grid import Grid, ScalingPoint, kinds_of, round_robin, whole_numbers
from dist_dash.errors import BadInput, require, require_count
from dist_dash.files import load_yaml
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.runs import slurm
from dist_dash.runs.choices import differing, flat
from dist_dash.runs.folder import RunFolder

# A short run that records every update and does nothing else. `max_steps` is --steps.
OVERRIDES = (
    "--record.every=1",
    "--record.evaluate_every=0",
    "--record.progress=false",
    "--checkpoints.every_epochs=0",
    "--checkpoints.every_steps=0",
)
REFUSED = {
    "--run": "every run has a folder of its own in --folder",
    "--fresh": "unfinished runs start over by themselves; use another --folder for another study",
    "--member": "the members of an ensemble are trained together here",
    "--max_steps": "use --steps",
}
LOCK = "scaling.lock"


@dataclass(frozen=True)
class ScalingRun:
    """One run of a scaling study.

    Args:
        point: its layout.
        repeat: counts from 1.
        study: the study's folder.
        arguments: of `dist-dash train`, without `--run`.
    """

    point: ScalingPoint
    repeat: int
    study: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.point.name}_{self.repeat}"

    @property
    def folder(self) -> RunFolder:
        """Its run folder."""
        return RunFolder(self.study / self.name)

    @property
    def left(self) -> bool:
        """Whether it is still to be done."""
        return not self.folder.done.exists()


@dataclass(frozen=True)
class ScalingStudy:
    """Everything that was requested, checked.

    Args:
        options: of the command line.
        grid: the points.
        commands: per point, the parsed arguments of `dist-dash train`.
        runs: all runs, in the order of the rounds.
        folder: of the study.
    """

    options: argparse.Namespace
    grid: Grid
    commands: dict[ScalingPoint, Command]
    runs: list[ScalingRun]
    folder: Path

    @property
    def logs(self) -> Path:
        """The folder of the copied recipes, the batch scripts and the runs' output."""
        return self.folder / "logs"

    @property
    def most_ranks(self) -> int:
        """The largest number of ranks of any run."""
        return max(point.ranks for point in self.commands)


def study_from(options: argparse.Namespace, base: Sequence[str]) -> ScalingStudy:
    """Check the options, the recipe at every point and the folders; sets the options' defaults, changes nothing else.

    Args:
        options: of the command line.
        base: arguments of `dist-dash train` that all runs share.

    Raises:
        BadInput: one line with the field, the value and what is allowed.
    """
    options.executor = options.executor or ("slurm" if slurm.available() else "here")
    for name in ("steps", "repeats", "parallel"):
        require_count(name, getattr(options, name))
    require(0 <= options.warm_up < options.steps, "warm-up", options.warm_up, f"at least 0, less than {options.steps}")
    for word in base:
        name = word.partition("=")[0]
        if name in REFUSED:
            raise BadInput(f"{name.removeprefix('--')}: not allowed in a scaling study; {REFUSED[name]}")
    members, replicas = whole_numbers("members", options.members), whole_numbers("replicas", options.replicas)
    kinds = kinds_of(options.scaling, replicas)
    first = parse_command([*base, f"--members={members[0]}"])
    grid = Grid(members, replicas, first.recipe.loader.batch_size, kinds)
    given = {point: _arguments(base, point, options.steps) for point in grid.points()}
    commands = {point: parse_command(words) for point, words in given.items()}
    per_rank = first.recipe.members_per_rank
    require(per_rank == 1, "members_per_rank", per_rank, "1 in a scaling study, which measures a rank for each member")
    for point, command in commands.items():
        models = command.recipe.models
        one_each = f"one per member, of the same number in all runs ({point.members} members)"
        require(models is None or len(models) == point.members, "models", len(models or []), one_each)
    stem = first.run.name.rpartition("-")[0].rpartition("-")[0]  # of <recipe>-<method>-s<seed>
    folder = Path(options.folder or f"runs/{stem}-scaling").absolute()
    rounds = round_robin(grid.points(), options.repeats)
    runs = [ScalingRun(point, repeat, folder, given[point]) for point, repeat in rounds]
    _check_folder(folder)
    for run in runs:
        run.folder.check_usable()
        if not run.left:
            _check_same(run, commands[run.point])
    return ScalingStudy(options, grid, commands, runs, folder)


def _arguments(base: Sequence[str], point: ScalingPoint, steps: int) -> tuple[str, ...]:
    layout = (f"--members={point.members}", f"--replicas={point.replicas}", f"--loader.batch_size={point.batch}")
    return (*base, *layout, f"--max_steps={steps}", *OVERRIDES)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"folder: {folder} is a file; it must be a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).exists():
        raise BadInput(
            f"folder: {folder} holds files that are not a study's; it must be empty, new, or a study's folder"
        )


def _check_same(run: ScalingRun, command: Command) -> None:
    """Refuse a finished run that was made with another recipe."""
    there = run.folder.recipe
    try:
        theirs = flat(load_yaml(there.read_text()))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise BadInput(f"{run.name}: {there} cannot be read ({type(error).__name__})") from error
    ours = flat(yaml.safe_load(command.as_yaml(run.point.members)))
    for field, (now, before) in differing([ours, theirs]).items():
        raise BadInput(
            f"{run.name}: {field} is {now!r} now, but the finished run has {before!r}; "
            "use another --folder, or remove that run"
        )
