"""From command line and YAML to a `Recipe`: typed by the classes themselves; every problem becomes one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from dist_dash.errors import BadInput, own_code, require
from dist_dash.files import SAFE_LOADER, find_modules_here
from dist_dash.recipe.description import DEFAULTS, FLAGS, OPTIONS
from dist_dash.recipe.problems import Fields, fields_of, given_by, load_yaml, problem_of
from dist_dash.recipe.recipe import Recipe
from dist_dash.recipe.run_names import check_run, default_run
from dist_dash.runs.choices import bare, spelled

T = TypeVar("T")
KINDS = {
    "config": Any,
    "run": str | None,
    "fresh": bool,
    "extend": bool,
    "replicas": int | None,
    "member": int | None,
}

# Files that earlier versions wrote name classes by the modules in which they were then.
jsonargparse.set_loader("recipe", lambda text: spelled(load_yaml(text)), (yaml.YAMLError,))


@dataclass
class Command:
    """What `dist-dash train` was asked to do.

    Args:
        recipe: the choices, as objects.
        resolved: the same as nested names and numbers, every default written out: `recipe.yaml`.
        run: the run folder.
        fresh: start over where the folder holds a run.
        replicas: ranks per member; None: as many as there are.
        member: the only member to train, of those that the recipe names; None: all of them.
        extend: train a run on that was to be shorter.
    """

    recipe: Recipe
    resolved: dict[str, Any]
    run: Path
    fresh: bool
    replicas: int | None
    member: int | None = None
    extend: bool = False

    def as_yaml(self, members: int | None = None) -> str:
        """The content of `recipe.yaml`; with the number of members that the run turned out to have, where given."""
        known = {} if members is None else {"members": members}
        return yaml.safe_dump({**self.resolved, **known}, sort_keys=False)


def new_parser(command: str) -> jsonargparse.ArgumentParser:
    """A parser that reads recipes, of this version or an earlier one."""
    find_modules_here()
    name = f"dist-dash {command}"
    return jsonargparse.ArgumentParser(prog=name, exit_on_error=False, allow_abbrev=False, parser_mode="recipe")


@cache
def train_parser() -> jsonargparse.ArgumentParser:
    """The parser of `dist-dash train`; its help is `description.train_help`."""
    parser = new_parser("train")
    parser.add_argument("--config", action="config", help=OPTIONS["config"])
    for name in FLAGS:
        parser.add_argument(f"--{name}", action="store_true", help=OPTIONS[name])
    for name in ("run", "replicas", "member"):
        parser.add_argument(f"--{name}", type=KINDS[name], help=OPTIONS[name])
    parser.add_class_arguments(Recipe)
    parser.set_defaults({name: {"class_path": cls} for name, cls in DEFAULTS.items()})
    return parser


def parse_command(arguments: Sequence[str]) -> Command:
    """Parse and build everything that the command line and its YAML files say.

    Raises:
        BadInput: one line with the field, the value and what is allowed.
    """
    parser = train_parser()

    def parse() -> tuple[dict[str, Any], dict[str, Any]]:
        config = parser.parse_args(spelled_words(arguments))
        # Validated by the parser already, and read by C where PyYAML has it: a sweep asks for this hundreds of times.
        dumped = parser.dump(config, format="yaml", skip_none=False, skip_validation=True)
        resolved = spelled(yaml.load(dumped, SAFE_LOADER))
        # What the parser lets pass in YAML: null, and a plain value in the place of a group of fields.
        _refuse(problem_of(resolved, _all_fields()))
        _check_numbers("", resolved)
        return resolved, vars(parser.instantiate(config))

    resolved, objects = explained(parse, lambda: given_by(arguments, DEFAULTS), _all_fields())
    own = {name: objects.pop(name) for name in KINDS}
    for name in own:
        resolved.pop(name, None)
    if own["replicas"] is not None and own["replicas"] < 1:
        raise BadInput(f"replicas: {own['replicas']} is not allowed; it must be a whole number ≥ 1")
    recipe = Recipe(**objects)
    _check_member(own["member"], recipe)
    if recipe.members_per_rank > 1:
        alone = f"1 with members_per_rank: {recipe.members_per_rank}"
        require(own["replicas"] in (None, 1), "replicas", own["replicas"], alone)
    if own["fresh"] and own["extend"]:
        raise BadInput("extend: not allowed with --fresh, which starts over; give one of the two")
    named = own["run"]
    run = check_run(named) if named is not None else default_run(arguments, type(recipe.method), recipe.seed)
    return Command(recipe, resolved, run, own["fresh"], own["replicas"], own["member"], own["extend"])


def explained(parse: Callable[[], T], given: Callable[[], Mapping[str, Any]], fields: Fields) -> T:
    """What a parser makes of its input; a refusal is explained by what was given.

    Args:
        parse: the attempt.
        given: the nested fields that it was given.
        fields: what there is.

    Raises:
        BadInput: one line with the field, the value and what is allowed.
    """
    try:
        return parse()
    except BadInput:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError, SyntaxError, yaml.YAMLError) as error:
        if own_code(error) and not isinstance(error, ValueError):  # a constructor refuses values with a ValueError
            raise
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, BadInput):  # a constructor's own words are the best
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        _refuse(problem_of(given(), fields))
        raise BadInput(f"recipe: {' '.join(str(error).split())}") from error


def _refuse(problem: str | None) -> None:
    if problem:
        raise BadInput(problem)


def _all_fields() -> Fields:
    recipe = fields_of(Recipe)
    return Fields({**KINDS, **recipe.kinds}, recipe.required)


def spelled_words(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, with the names of this project's classes as they are written today."""
    parts = [word.rpartition("=") for word in arguments]
    return [f"{name}{equals}{bare(value)}" for name, equals, value in parts]


def _check_numbers(field: str, value: Any) -> None:
    """Refuse numbers that are none, whole numbers of more than 64 bits, and infinite settings of the optimizer."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_numbers(field if name == "init_args" else f"{field}.{name}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(field, inner)
    elif isinstance(value, float):
        endless = math.isinf(value) and field.startswith("optimizer.")
        require(not (math.isnan(value) or endless), field, value, "a finite number")
    elif isinstance(value, int):
        require(abs(value) < 2**63, field, value, "a whole number of at most 64 bits")


def _check_member(member: int | None, recipe: Recipe) -> None:
    if member is None:
        return
    if recipe.members is None:
        raise BadInput(f"member: {member} is not allowed without members; say how many the ensemble has")
    require(0 <= member < recipe.members, "member", member, f"one of 0 … {recipe.members - 1}")
    per_rank = recipe.members_per_rank
    require(per_rank == 1, "members_per_rank", per_rank, "1 with --member, which trains one member alone")
    if recipe.method.exchanges:
        name = type(recipe.method).__name__
        raise BadInput(f"member: {member} is not allowed with method {name}, whose members must be trained together")
