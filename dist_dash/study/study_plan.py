"""What a study compares, from its YAML file to the runs that it needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Le, Lt, MinLen, Predicate

from dist_dash.analysis.flatness.measure import FlatnessOptions
from dist_dash.comparison.settings import slug
from dist_dash.errors import MOST, BadInput, require
from dist_dash.member.engine import Torch
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.recipe.typed import Allowed, Texts, read_yaml, typed
from dist_dash.study.effect import has_effect


def _different(seeds: tuple[int, ...]) -> bool:
    return len(set(seeds)) == len(seeds)


Fields = Annotated[dict[str, Any], Allowed("a group of fields")]
Seed = Annotated[int, Ge(0), Lt(2**63)]
Seeds = Annotated[tuple[Seed, ...], MinLen(1), Predicate(_different), Allowed("a list of different whole numbers ≥ 0")]
BASE = "base.yaml"  # in a study's folder: the recipe that its runs share; it is no run itself
LOWER_IS_BETTER = ("nll", "brier", "ece", "ece_mass", "cal_nll", "cal_brier", "cal_ece", "cal_ece_mass")
HIGHER_IS_BETTER = ("accuracy", "top5", "aac", "cal_aac")


@dataclass(frozen=True)
class SelectionRule:
    """How each method's settings are chosen.

    Args:
        score: of the ensemble, by which the best trial is chosen.
        seeds: every trial is run with each of them; none of them is a seed of the study itself.
        split: where the score is taken: `validation`, never the split that the study reports on.
    """

    score: str = "cal_nll"
    seeds: Seeds = (100,)
    split: str = "validation"

    def __post_init__(self) -> None:
        known = (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)
        require(self.score in known, "score", self.score, f"one of {', '.join(known)}")
        require(self.split == "validation", "split", self.split, "validation: figures are reported on test")

    def better(self, score: float) -> float:
        """The score with a sign that makes lower better."""
        return -score if self.score in HIGHER_IS_BETTER else score


@dataclass(frozen=True)
class Candidate:
    """One method of the comparison.

    Args:
        fields: of the recipe, that make it this method.
        trials: settings to choose from, each a few more fields.
    """

    fields: Fields
    trials: Annotated[tuple[Fields, ...], MinLen(1), Allowed("a list of groups of fields")]

    def __post_init__(self) -> None:
        if len({json.dumps(trial, sort_keys=True) for trial in self.trials}) < len(self.trials):
            raise BadInput("trials: one of them is there twice; each must be a setting of its own")


@dataclass(frozen=True)
class PlannedRun:
    """One run.

    Args:
        name: of its folder, below the study's.
        arguments: of `dist-dash train`, without `--run`.
        given: the fields of its condition, method and trial, each of which must take effect.
    """

    name: str
    arguments: tuple[str, ...]
    given: Fields = field(default_factory=dict)


@dataclass(frozen=True)
class StudyPlan:
    """A study, field by field as its YAML file has it.

    Args:
        recipe: fields that all runs share, nested as in a recipe's YAML file.
        members: of every ensemble.
        methods: by the names that tables show.
        conditions: fields by name; every method is trained under each.
        seeds: of the reported runs.
        selection: how settings are chosen.
        baselines: methods that the others are compared with; by default the first.
        title: of tables and pages; by default the name of the file.
        notes: sentences that a reader of the results must know.
        flatness: options of `dist-dash flatness` (`rho`, `steps`), which is measured of every reported run; None: not.
    """

    recipe: Fields
    members: Annotated[int, Ge(1), Le(MOST), Allowed("a whole number ≥ 1")]
    methods: Annotated[dict[str, Candidate], MinLen(1), Allowed("at least one method")]
    conditions: Annotated[dict[str, Fields], MinLen(1), Allowed("at least one, such as {all: {}}")]
    seeds: Seeds
    selection: SelectionRule
    baselines: Texts = ()
    title: str = field(default="", compare=False)
    notes: Texts = field(default=(), compare=False)
    flatness: FlatnessOptions | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for what, names in (("methods", self.methods), ("conditions", self.conditions)):
            slugs = [slug(name) for name in names]
            for name in names:
                require(
                    bool(slug(name)) and slugs.count(slug(name)) == 1, what, name, "a name of its own, with letters"
                )
        numbers = {name: len(method.trials) for name, method in self.methods.items()}
        if len(set(numbers.values())) > 1:
            each = ", ".join(f"{name}: {number}" for name, number in numbers.items())
            raise BadInput(f"methods: the numbers of trials differ ({each}); a fair choice gives every method as many")
        for name in self.baselines:
            require(name in self.methods, "baselines", name, f"one of {', '.join(self.methods)}")
        both = sorted(set(self.seeds) & set(self.selection.seeds))
        require(not both, "selection.seeds", both, "seeds that the study does not report")

    def trials(self, folder: Path) -> list[PlannedRun]:
        """The runs that settings are chosen by."""
        return [
            self._run(folder, self.trial_name(condition, name, number, seed), condition, method, trial, seed)
            for condition in self.conditions
            for name, method in self.methods.items()
            for number, trial in enumerate(method.trials)
            for seed in self.selection.seeds
        ]

    def trial_name(self, condition: str, method: str, trial: int, seed: int) -> str:
        """The name of one of the `trials`."""
        return f"selection/{slug(condition)}/{slug(method)}-t{trial}-s{seed}"

    def reported(self, folder: Path, chosen: Mapping[tuple[str, str], int]) -> dict[str, tuple[str, str, PlannedRun]]:
        """The runs that are reported, by name: condition, method, run.

        Args:
            folder: of the study.
            chosen: number of the trial, by condition and method.
        """
        found = {}
        for condition in self.conditions:
            for name, method in self.methods.items():
                number = chosen[condition, name]
                for seed in self.seeds:
                    # Named by its setting: one that was chosen before the scores changed must not pass for this one.
                    place = f"reported/{slug(condition)}/{slug(name)}-t{number}-s{seed}"
                    run = self._run(folder, place, condition, method, method.trials[number], seed)
                    found[place] = condition, name, run
        return found

    def _run(self, folder: Path, name: str, condition: str, method: Candidate, trial: Fields, seed: int) -> PlannedRun:
        fields = {**self.conditions[condition], **method.fields, **trial, "seed": seed, "members": self.members}
        given = {**method.fields, **trial, **self.conditions[condition]}
        return PlannedRun(name, (f"--config={folder / BASE}", *arguments_of(fields)), given)


def arguments_of(fields: Fields) -> Iterator[str]:
    """`--field=value` for each; the name of a class before its fields."""
    for name in sorted(fields, key=lambda name: name.count(".")):
        yield f"--{name}={_written(fields[name])}"


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(yaml.safe_dump(value)).split()[0]
    return json.dumps(value, default=str)


def read_plan(path: Path) -> StudyPlan:
    """Read a study's file and check everything that can be checked before its first run.

    Raises:
        BadInput: one line: the field, the value, what is allowed.
    """
    found = read_yaml(path, "study", "a study's YAML file")
    if isinstance(found, dict) and isinstance(methods := found.get("methods"), dict):
        found = {"title": path.stem, "baselines": [str(name) for name in methods][:1], **found}
    return typed(found, StudyPlan, "study")


def check_commands(plan: StudyPlan, folder: Path) -> list[Command]:
    """Parse the runs: every setting under the first condition, and the first setting under every condition.

    Raises:
        BadInput: a recipe is wrong, in its own words; or it cannot be part of a study.
    """
    first = next(iter(plan.conditions))
    seed = plan.selection.seeds[0]
    asked = {plan.trial_name(first, name, n, seed) for name, m in plan.methods.items() for n in range(len(m.trials))}
    asked |= {plan.trial_name(c, name, 0, seed) for c in plan.conditions for name in plan.methods}
    commands: list[Command] = []
    seen: dict[str, str] = {}
    for run in plan.trials(folder):
        if run.name in asked:
            try:
                command = parse_command(run.arguments)
            except BadInput as error:
                raise BadInput(f"{error} (study, run {run.name})") from error
            _check_command(command, run)
            method = f"{run.name.rpartition('-t')[0]} {command.as_yaml()}"
            if (other := seen.setdefault(method, run.name)) != run.name:
                raise BadInput(f"methods: the trials {other} and {run.name} are the same setting; each must be another")
            commands.append(command)
    return commands


def _check_command(command: Command, run: PlannedRun) -> None:
    recipe, where = command.recipe, f"(study, run {run.name})"
    for name, value in run.given.items():
        if not has_effect(name, value, command.resolved):
            raise BadInput(f"{name}: {value!r} has no effect {where}; it must be a field of recipes that is set once")
    if not isinstance(recipe.engine, Torch):
        name = type(recipe.engine).__name__
        raise BadInput(f"engine: {name} is not allowed {where}: its ranks stay alive between runs; it must be Torch")
    if recipe.members_per_rank > 1:
        raise BadInput(f"members_per_rank: {recipe.members_per_rank} is not allowed {where}; it must be 1 in a study")
    if not recipe.labels.validation and recipe.data.load().validation is None:
        raise BadInput(f"labels.validation: 0 is not allowed {where}: settings are chosen on it; it must be above 0")
