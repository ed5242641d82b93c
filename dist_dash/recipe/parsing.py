"""From command line and YAML to a `Recipe`: typed by the classes themselves; every problem becomes one line."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import pydoc
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import jsonargparse
import yaml

from dist_dash.data import Source
from dist_dash.errors import BadInput, require
from dist_dash.member.deepspeed_engine import DeepSpeed
from dist_dash.member.engine import Engine, Torch
from dist_dash.methods import DASH, Method
from dist_dash.models import Architecture
from dist_dash.recipe.recipe import Recipe
from dist_dash.sparsity import Dense, Sparsity
from dist_dash.trajectories.schedules import Cosine
from dist_dash.trajectories.trajectory import Trajectory

ENGINES = (DeepSpeed, Torch)  # imported, so that `--engine NAME` finds them
BASES = {
    "data": Source,
    "model": Architecture,
    "models": Architecture,
    "engine": Engine,
    "method": Method,
    "schedule": Trajectory,
    "sparsity": Sparsity,
}
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    """

    recipe: Recipe
    resolved: dict[str, Any]
    run: Path
    fresh: bool
    replicas: int | None
    member: int | None = None

    def as_yaml(self, members: int | None = None) -> str:
        """The content of `recipe.yaml`; with the number of members that the run turned out to have, where given."""
        known = {} if members is None else {"members": members}
        return yaml.safe_dump({**self.resolved, **known}, sort_keys=False)


@cache
def train_parser() -> jsonargparse.ArgumentParser:
    """The parser of `dist-dash train`."""
    parser = jsonargparse.ArgumentParser(
        prog="dist-dash train",
        description="Train an ensemble, one member per rank.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a recipe (YAML); later arguments override it")
    parser.add_argument("--run", type=str | None, help="run folder (default: runs/<recipe>-<method>-s<seed>)")
    parser.add_argument("--fresh", action="store_true", help="start over where the folder holds a run")
    parser.add_argument("--replicas", type=int | None, help="ranks per member (default: as many as there are)")
    parser.add_argument(
        "--member", type=int | None, help="train this member alone, as it would become among all (no exchange)"
    )
    parser.add_class_arguments(Recipe)
    defaults = {"method": DASH, "engine": DeepSpeed, "schedule": Cosine, "sparsity": Dense}
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
        # Validated by the parser already, and read by C where PyYAML has it: a sweep asks for this hundreds of times.
        resolved = yaml.load(parser.dump(config, skip_none=False, skip_validation=True), SAFE_LOADER)
        _check_values("", resolved, Recipe)
        objects = vars(parser.instantiate(config))
    except BadInput:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError, yaml.YAMLError) as error:
        raise BadInput(one_line_of(error, parser, arguments)) from error
    own = {name: objects.pop(name) for name in ("config", "run", "fresh", "replicas", "member")}
    for name in own:
        resolved.pop(name, None)
    if own["replicas"] is not None and own["replicas"] < 1:
        raise BadInput(f"replicas: {own['replicas']} is not allowed; it must be a whole number ≥ 1")
    recipe = Recipe(**objects)
    _check_member(own["member"], recipe)
    configs = own["config"] or []
    stem = Path(str(configs[-1])).stem if configs else "recipe"
    run = own["run"] or f"runs/{stem}-{type(recipe.method).__name__.lower()}-s{recipe.seed}"
    return Command(recipe, resolved, Path(run), own["fresh"], own["replicas"], own["member"])


def _check_member(member: int | None, recipe: Recipe) -> None:
    if member is None:
        return
    if recipe.members is None:
        raise BadInput(f"member: {member} is not allowed without members; say how many the ensemble has")
    require(0 <= member < recipe.members, "member", member, f"one of 0 … {recipe.members - 1}")
    if recipe.method.exchanges:
        name = type(recipe.method).__name__
        raise BadInput(f"member: {member} is not allowed with method {name}, whose members must be trained together")


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# -- what jsonargparse lets pass in YAML: null, and a plain value in the place of a group of fields --------------------


def _check_values(field: str, value: Any, kind: Any) -> None:
    if dataclasses.is_dataclass(kind):
        names = ", ".join(f.name for f in dataclasses.fields(kind))
        require(isinstance(value, dict), field, value, f"a group of fields ({names})")
        for name, inner in get_type_hints(kind).items():
            _check_values(f"{field}.{name}".lstrip("."), value[name], inner)
    elif value is None and "None" not in str(kind) and kind not in (Any, inspect.Parameter.empty):
        raise BadInput(f"{field}: null is not allowed; it must be {_allowed_class(field) or _readable(kind)}")
    elif isinstance(value, dict) and "class_path" in value:
        kinds = _arguments_of(value["class_path"])
        for name, argument in (value.get("init_args") or {}).items():
            _check_values(f"{field}.{name}", argument, kinds.get(name, Any))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(f"{field}[{index}]", item, Any)


# -- jsonargparse's words in one line: field, value, what is allowed ---------------------------------------------------


def one_line_of(error: BaseException, parser: jsonargparse.ArgumentParser, arguments: Sequence[str]) -> str:
    """What a parser complained about, in one line: field, value, what is allowed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BadInput):  # a constructor's own words are the best
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = str(error).strip()
    keys = re.findall(r'Parser key "([^"]+)"', text)
    field = ".".join(k for i, k in enumerate(keys) if i == 0 or k != keys[i - 1])
    text = re.sub(r'Parser key "[^"]+":', "", text)
    found = (
        _about_config(field, text, arguments)
        or _about_names(field, text, [a.dest for a in parser._actions])
        or _about_classes(field, text)
        or _about_values(field, text)
        or f"{field}: {text}"
    )
    return " ".join(found.split()).removeprefix(": ")


def _about_config(field: str, text: str, arguments: Sequence[str]) -> str | None:
    if match := re.search(r"(File does not exist|Path is not .*?): '?(.*?)'?$", text):
        return f"{field}: {match[2]!r} is not allowed ({match[1].lower()}); it must be a recipe, a YAML file"
    if not re.match(r"Problems parsing config|Unexpected config|'\S+' codec can't decode", text):
        return None
    given = [
        a.partition("=")[2] or following
        for a, following in zip(arguments, [*arguments[1:], ""], strict=True)
        if a.partition("=")[0] == "--config"
    ]
    for path in given:
        try:
            usable = isinstance(yaml.safe_load(Path(path).read_text()), dict)
        except (OSError, ValueError, yaml.YAMLError) as error:
            problem = re.sub(r"\s*in \"<\w+ string>\",", ",", str(error).partition(":\n")[0])
            return f"config: {path!r} is not allowed ({problem}); it must be a recipe, a YAML file"
        if not usable:
            return f"config: {path!r} is not allowed (it holds no fields); it must be a recipe, a YAML file"
    return None


def _about_names(field: str, text: str, known: list[str]) -> str | None:
    """A name that is not there, or one that is missing."""
    if match := re.match(r"unrecognized arguments: (?:--?([\w.]+)|(\S+))", text, re.IGNORECASE):
        return _unknown(match[1], known) if match[1] else f"{match[2]!r} belongs to no option; it must be --field value"
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown(f"{match[1]}.{match[2]}", known)
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        owner = re.search(r"class_path(?: |=)'([\w.]+)'", text)
        return _unknown(f"{field}.{match[1]}", [f"{field}.{n}" for n in _arguments_of(owner[1])] if owner else known)
    if match := re.search(r"the following arguments are required: (.*)", text):
        missing = ", ".join(f"{field}.{name}".lstrip(".") for name in match[1].split(", "))
        return f"{missing}: missing; give it in the recipe or as --field value"
    if match := re.match(r"argument --([\w.]+): (.*)", text):
        return f"{match[1]}: {match[2]}"
    return None


def _about_classes(field: str, text: str) -> str | None:
    if not (allowed := _allowed_class(field)):
        return None
    wrong = (
        r"Expected a dot import path string: (\S+)",
        r"Import path (\S+) does not correspond to a subclass",
        r"Expected '(\S+)' to be a subclass",
        r"Not a valid subclass of \w+\. Got value: (.*)",
        r"Expected an instantiatable class, but (\S+) is abstract",
        r"but got (.*?)\. Got value",
    )
    for pattern in wrong:
        if match := re.search(pattern, text):
            return f"{field}: {match[1]!r} is not allowed; it must be {allowed}"
    owner = re.search(r"class_path(?: |=)'([\w.]+)'|Got value: ([\w.]+)$", text)
    value = (owner[1] or owner[2]) if owner else ""
    if match := re.search(r"(?:No module named|has no attribute) '[^']*'", text):
        return f"{field}: {value!r} cannot be imported ({match[0]}); it must be {allowed}"
    if "expects a function or a callable class" in text:
        return f"{field}: {value!r} is not allowed; it must be {allowed}"
    return None


def _about_values(field: str, text: str) -> str | None:
    if match := re.search(r"Expected an? (.+?)\. Got value: (.*)", text):
        return f"{field}: {match[2].strip()!r} is not allowed; it must be {_readable(match[1])}"
    if match := re.search(r"Subtypes: \[(.*)\]\n.*Given value: (.*?)(?:\. Got value:.*)?$", text, re.DOTALL):
        return f"{field}: {match[2].strip()!r} is not allowed; it must be {_readable(match[1])}"
    if match := re.search(r"Unable to load config '(.*)'", text):
        return (
            f"{field}: {match[1]!r} is not allowed; it must be a group of fields, or give one as --{field}.name value"
        )
    return None


def _unknown(field: str, known: Sequence[str]) -> str:
    group, _, name = field.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == group}
    close = [siblings[n] for n in difflib.get_close_matches(name, siblings, n=3)]
    close = close or [k for k in known if k.endswith(f".{name}")]
    hint = "`dist-dash train --print_config` shows all fields"
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif group and siblings:
        hint = f"known here: {', '.join(sorted(siblings))}"
    return f"{field.lstrip('.')}: no such field; {hint}"


def _arguments_of(class_path: str) -> dict[str, Any]:
    """The type of each constructor argument."""
    cls = pydoc.locate(class_path)
    parameters = inspect.signature(cls).parameters if callable(cls) else {}
    return {name: parameter.annotation for name, parameter in parameters.items() if name != "params"}


def _allowed_class(field: str) -> str | None:
    """What may be named in `field`; None where it does not take a class."""
    field = field.partition("[")[0]
    if field == "optimizer":
        return "a class of torch.optim, such as SGD or AdamW"
    names = sorted(c.__name__ for c in _subclasses(BASES[field])) if field in BASES else []
    return f"one of {', '.join(names)}, or a class path" if names else None


def _subclasses(base: type) -> list[type]:
    below: list[type] = base.__subclasses__()
    found = [cls for sub in below for cls in [sub, *_subclasses(sub)]]
    own = [cls for cls in found if cls.__module__.startswith("dist_dash.")]
    return [cls for cls in own if not inspect.isabstract(cls) and not cls.__name__.startswith("_")]


def _readable(kind: Any) -> str:
    text = str(kind)
    if "Literal[" in text:
        return "one of " + ", ".join(re.findall(r"[^\s,'\"]+", text.partition("Literal[")[2].partition("]")[0]))
    if re.search(r"\blist\[", text):
        return "a list" + (" or null" if "None" in text else "")
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
    known = [names[word] for word in re.findall(r"\b(int|float|bool|str|None)(?:Type)?\b", text)]
    return " or ".join(dict.fromkeys(known)) or text
