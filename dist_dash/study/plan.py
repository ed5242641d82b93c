"""What a study compares, from its YAML file to the runs that it needs."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dist_dash.analysis.flatness.measure import FlatnessOptions
from dist_dash.errors import BadInput, require
from dist_dash.member.engine import Torch
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.study.effect import has_effect

Fields = dict[str, Any]
BASE = "base.yaml"  # in a study's folder: the recipe that its runs share; it is no run itself
LOWER_IS_BETTER = ("nll", "brier", "ece", "ece_mass", "cal_nll", "cal_brier", "cal_ece", "cal_ece_mass")
HIGHER_IS_BETTER = ("accuracy", "top5", "aac", "cal_aac")


@dataclass(frozen=True)
class Selection:
    """How each method's settings are chosen.

    Args:
        score: of the ensemble, by which the best trial is chosen.
        seeds: every trial is run with each of them; none of them is a seed of the study itself.
        split: where the score is taken: `validation`, never the split that the study reports on.
    """

    score: str = "cal_nll"
    seeds: tuple[int, ...] = (100,)
    split: str = "validation"

    def __post_init__(self) -> None:
        known = (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)
        require(self.score in known, "selection.score", self.score, f"one of {', '.join(known)}")
        require(self.split == "validation", "selection.split", self.split, "validation: figures are reported on test")

    def better(self, score: float) -> float:
        """The score, so that less is better."""
        return -score if self.score in HIGHER_IS_BETTER else score


@dataclass(frozen=True)
class Candidate:
    """One method of the comparison.

    Args:
        fields: of the recipe, that make it this method.
        trials: settings to choose from, each a few more fields.
    """

    fields: Fields
    trials: tuple[Fields, ...]


@dataclass(frozen=True)
class StudyRun:
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
class Plan:
    """A study.

    Args:
        recipe: fields that all runs share, nested as in a recipe's YAML file.
        members: of every ensemble.
        methods: by the names that tables show.
        conditions: fields by name; every method is trained under each.
        seeds: of the reported runs.
        selection: how settings are chosen.
        baselines: methods that the others are compared with.
        title: of tables and pages.
        notes: sentences that a reader of the results must know.
        flatness: options of `dist-dash flatness` (`rho`, `steps`), which is measured of every reported run; None: not.
    """

    recipe: Fields
    members: int
    methods: dict[str, Candidate]
    conditions: dict[str, Fields]
    seeds: tuple[int, ...]
    selection: Selection
    baselines: tuple[str, ...]
    title: str = field(compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    flatness: FlatnessOptions | None = field(default=None, compare=False)
    text: str = field(default="", compare=False)

    def trials(self, folder: Path) -> list[StudyRun]:
        """The runs that settings are chosen by."""
        return [
            self._run(
                folder, f"selection/{slug(condition)}/{slug(name)}-t{number}-s{seed}", condition, method, trial, seed
            )
            for condition in self.conditions
            for name, method in self.methods.items()
            for number, trial in enumerate(method.trials)
            for seed in self.selection.seeds
        ]

    def trial_name(self, condition: str, method: str, trial: int, seed: int) -> str:
        """Where one of `trials` is."""
        return f"selection/{slug(condition)}/{slug(method)}-t{trial}-s{seed}"

    def reported(self, folder: Path, chosen: Mapping[tuple[str, str], int]) -> dict[str, tuple[str, str, StudyRun]]:
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

    def _run(self, folder: Path, name: str, condition: str, method: Candidate, trial: Fields, seed: int) -> StudyRun:
        fields = {**self.conditions[condition], **method.fields, **trial, "seed": seed, "members": self.members}
        given = {**method.fields, **trial, **self.conditions[condition]}
        return StudyRun(name, (f"--config={folder / BASE}", *arguments_of(fields)), given)


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


def slug(name: str) -> str:
    """A name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


# -- reading it --------------------------------------------------------------------------------------------------------


def read_plan(path: Path) -> Plan:
    """Read a study's file and check everything that can be checked before its first run.

    Raises:
        BadInput: one line: the field, the value, what is allowed.
    """
    try:
        text = path.read_text()
        found = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = re.sub(r' in "<\w+ string>",', ",", " ".join(str(error).split()))
        raise BadInput(f"study: {str(path)!r} is not allowed ({problem}); it must be a study's YAML file") from error
    fields = _group("study", found, ("recipe", "members", "methods", "conditions", "seeds", "selection"), Plan)
    methods = {str(name): _candidate(str(name), one) for name, one in _mapping("methods", fields["methods"]).items()}
    conditions = {
        str(name): _mapping(f"conditions.{name}", one)
        for name, one in _mapping("conditions", fields["conditions"]).items()
    }
    selection = _group("selection", fields["selection"], (), Selection)
    if "seeds" in selection:
        selection["seeds"] = _seeds("selection.seeds", selection["seeds"])
    plan = Plan(
        recipe=_mapping("recipe", fields["recipe"]),
        members=fields["members"],
        methods=methods,
        conditions=conditions,
        seeds=_seeds("seeds", fields["seeds"]),
        selection=Selection(**selection),
        baselines=_names("baselines", fields.get("baselines", [*methods][:1])),
        title=str(fields.get("title", path.stem)),
        notes=_names("notes", fields.get("notes", [])),
        flatness=None if fields.get("flatness") is None else _flatness(fields["flatness"]),
        text=text,
    )
    _check(plan)
    return plan


def check_commands(plan: Plan, folder: Path) -> list[Command]:
    """What the runs ask for: every setting under the first condition, and the first setting under every condition.

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


def _check_command(command: Command, run: StudyRun) -> None:
    recipe, where = command.recipe, f"(study, run {run.name})"
    for name, value in run.given.items():
        if not has_effect(name, value, command.resolved):
            raise BadInput(f"{name}: {value!r} has no effect {where}; it must be a field of recipes that is set once")
    if not isinstance(recipe.engine, Torch):
        name = type(recipe.engine).__name__
        raise BadInput(f"engine: {name} is not allowed {where}: its ranks stay alive between runs; it must be Torch")
    if not recipe.labels.validation and recipe.data.load().validation is None:
        raise BadInput(f"labels.validation: 0 is not allowed {where}: settings are chosen on it; it must be above 0")


def _check(plan: Plan) -> None:
    require(type(plan.members) is int and plan.members >= 1, "members", plan.members, "a whole number ≥ 1")
    require(bool(plan.methods), "methods", plan.methods, "at least one method")
    require(bool(plan.conditions), "conditions", plan.conditions, "at least one, such as {all: {}}")
    for what, names in (("methods", plan.methods), ("conditions", plan.conditions)):
        slugs = [slug(name) for name in names]
        for name in names:
            require(bool(slug(name)) and slugs.count(slug(name)) == 1, what, name, "a name of its own, with letters")
    numbers = {name: len(method.trials) for name, method in plan.methods.items()}
    if len(set(numbers.values())) > 1:
        each = ", ".join(f"{name}: {number}" for name, number in numbers.items())
        raise BadInput(f"methods: the numbers of trials differ ({each}); a fair choice gives every method as many")
    for name in plan.baselines:
        require(name in plan.methods, "baselines", name, f"one of {', '.join(plan.methods)}")
    both = set(plan.seeds) & set(plan.selection.seeds)
    require(not both, "selection.seeds", sorted(both), "seeds that the study does not report")


def _candidate(name: str, given: Any) -> Candidate:
    fields = _group(f"methods.{name}", given, ("fields", "trials"), Candidate)
    trials = fields["trials"]
    require(isinstance(trials, list) and bool(trials), f"methods.{name}.trials", trials, "a list of groups of fields")
    parts = [_mapping(f"methods.{name}.trials[{n}]", trial) for n, trial in enumerate(trials)]
    if len({json.dumps(part, sort_keys=True, default=str) for part in parts}) < len(parts):
        raise BadInput(f"methods.{name}.trials: one of them is there twice; each must be a setting of its own")
    return Candidate(_mapping(f"methods.{name}.fields", fields["fields"]), tuple(parts))


def _flatness(given: Any) -> FlatnessOptions:
    fields = _group("flatness", given, (), FlatnessOptions)
    for name, value in fields.items():
        allowed = {float: (int, float), str: (str,)}.get(type(getattr(FlatnessOptions, name)), (int,))
        what = "a text" if allowed == (str,) else "a whole number" if allowed == (int,) else "a number"
        require(type(value) in allowed, f"flatness.{name}", value, what)
    try:
        return FlatnessOptions(**fields)
    except BadInput as error:
        raise BadInput(f"flatness.{error}") from error


def _group(field: str, given: Any, needed: Sequence[str], kind: type) -> Fields:
    known = [name for name in kind.__dataclass_fields__ if name != "text"]  # type: ignore[attr-defined]
    found = _mapping(field, given)
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            raise BadInput(f"{field}: {name!r} is no field of it; {hint}")
    missing = [name for name in needed if name not in found]
    if missing:
        raise BadInput(f"{field}: {', '.join(missing)} missing; it must have {', '.join(needed)}")
    return found


def _mapping(field: str, given: Any) -> Fields:
    require(isinstance(given, dict), field, given, "a group of fields")
    return {str(name): value for name, value in given.items()}


def _names(field: str, given: Any) -> tuple[str, ...]:
    require(isinstance(given, list), field, given, "a list of texts")
    return tuple(map(str, given))


def _seeds(field: str, given: Any) -> tuple[int, ...]:
    good = isinstance(given, list) and given and all(type(seed) is int and seed >= 0 for seed in given)
    require(bool(good) and len(set(given)) == len(given), field, given, "a list of different whole numbers ≥ 0")
    return tuple(given)
