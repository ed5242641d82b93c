"""From command line and YAML to a `Recipe`: typed by the classes themselves; every problem becomes one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from dist_dash.data import Source
from dist_dash.deepspeed_engine import DeepSpeed
from dist_dash.engine import Engine, Torch
from dist_dash.errors import BadInput
from dist_dash.methods import DASH, Method
from dist_dash.models import Architecture
from dist_dash.recipe import Recipe
from dist_dash.schedules import Cosine

ENGINES = (DeepSpeed, Torch)
BASES = {"data": Source, "model": Architecture, "models": Architecture, "engine": Engine, "method": Method}


@dataclass
class Command:
    """What `dist-dash train` was asked to do.

    Args:
        recipe: the choices, as objects.
        resolved: the same as nested names and numbers, every default written out: `recipe.yaml`.
        run: the run folder.
        fresh: start over where the folder holds a run.
        replicas: ranks per member, where the command starts the ranks itself.
    """

    recipe: Recipe
    resolved: dict[str, Any]
    run: Path
    fresh: bool
    replicas: int

    def as_yaml(self) -> str:
        """The content of `recipe.yaml`."""
        return yaml.safe_dump(self.resolved, sort_keys=False)


def train_parser() -> jsonargparse.ArgumentParser:
    """The parser of `dist-dash train`."""
    parser = jsonargparse.ArgumentParser(
        prog="dist-dash train", description="Train an ensemble, one member per rank.", exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="a recipe (YAML); later arguments override it")
    parser.add_argument("--run", type=str | None, help="run folder (default: runs/<recipe>-<method>-s<seed>)")
    parser.add_argument("--fresh", action="store_true", help="start over where the folder holds a run")
    parser.add_argument("--replicas", type=int, default=1, help="ranks per member, when started without torchrun")
    parser.add_class_arguments(Recipe)
    defaults = {"method": DASH, "engine": DeepSpeed, "schedule": Cosine}
    parser.set_defaults({name: {"class_path": _path(cls)} for name, cls in defaults.items()})
    return parser


def parse_command(arguments: Sequence[str]) -> Command:
    """Parse and build everything that the command line and its YAML files say.

    Raises:
        BadInput: one line with the field, the value and what is allowed.
    """
    parser = train_parser()
    try:
        config = parser.parse_args(list(arguments))
        resolved = yaml.safe_load(parser.dump(config, skip_none=False))
        objects = vars(parser.instantiate(config))
    except BadInput:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError, yaml.YAMLError) as error:
        raise BadInput(_one_line(error, parser)) from error
    own = {name: objects.pop(name) for name in ("config", "run", "fresh", "replicas")}
    for name in own:
        resolved.pop(name, None)
    if own["replicas"] < 1:
        raise BadInput(f"replicas: {own['replicas']} is not allowed; it must be a whole number ≥ 1")
    recipe = Recipe(**objects)
    configs = own["config"] or []
    stem = Path(str(configs[-1])).stem if configs else "recipe"
    run = own["run"] or f"runs/{stem}-{type(recipe.method).__name__.lower()}-s{recipe.seed}"
    return Command(recipe, resolved, Path(run), own["fresh"], own["replicas"])


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _one_line(error: BaseException, parser: jsonargparse.ArgumentParser) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BadInput):  # a constructor's own words are the best
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = str(error).strip()
    if match := re.match(r"unrecognized arguments: --?([\w.]+)", text, re.IGNORECASE):
        return _unknown(match[1], [a.dest for a in parser._actions])
    keys = re.findall(r'Parser key "([^"]+)"', text)
    field = ".".join(k for i, k in enumerate(keys) if i == 0 or k != keys[i - 1])
    rest = re.sub(r'Parser key "[^"]+":', "", text)
    if match := re.search(r"Problem with given class_path '([\w.]+)':\s*Option '([^']+)' is not accepted", rest):
        return _unknown(f"{field}.{match[2]}", [f"{field}.{n}" for n in _arguments_of(match[1])])
    if match := re.search(r"Expected a dot import path string: (\S+)", rest):
        known = sorted(c.__name__ for c in _subclasses(BASES[field])) if field in BASES else []
        allowed = f"; it must be one of {', '.join(known)}, or a class path" if known else "; it must name a class"
        return f"{field}: {match[1]!r} is not known{allowed}"
    rest = re.sub(r"Problem with given class_path '[\w.]+':", "", rest)
    if match := re.search(r"Expected an? (.+?)\. Got value: (.*)", rest, re.DOTALL):
        return f"{field}: {match[2].strip()!r} is not allowed; it must be {_readable(match[1])}"
    return " ".join(f"{field}: {rest}".split()).removeprefix(": ")


def _unknown(field: str, known: list[str]) -> str:
    close = difflib.get_close_matches(field, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`dist-dash train --print_config` shows all fields"
    if not close and "." in field:
        siblings = sorted(name.rpartition(".")[2] for name in known if name.startswith(field.rpartition(".")[0] + "."))
        hint = f"known here: {', '.join(siblings)}" if siblings else hint
    return f"{field}: no such field; {hint}"


def _arguments_of(class_path: str) -> list[str]:
    import inspect

    return list(inspect.signature(jsonargparse._util.import_object(class_path)).parameters)


def _subclasses(base: type) -> list[type]:
    import inspect

    found = [s for sub in base.__subclasses__() for s in [sub, *_subclasses(sub)]]
    return [cls for cls in found if not inspect.isabstract(cls) and not cls.__name__.startswith("_")]


def _readable(expected: str) -> str:
    expected = re.sub(r"typing\.Literal\[(.*)\]", lambda m: "one of " + m[1].replace("'", ""), expected)
    names = {"<class 'int'>": "a whole number", "<class 'float'>": "a number", "<class 'bool'>": "true or false"}
    return names.get(expected, expected)
