"""What is wrong with a recipe, in one line: the field, its value, what is allowed.

Found in what was given, by the types of the classes that take it. The words of the library that parses are never read:
it decides whether a recipe is good, and whether a single value fits its type; this file says why one is not.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jsonargparse
import torch
import yaml

from dist_dash import files
from dist_dash.errors import BadInput
from dist_dash.recipe.classes import BASES, class_named, known
from dist_dash.recipe.description import FLAGS
from dist_dash.runs.choices import bare

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
NO_RECIPE = "it must be a recipe, a YAML file"
_load: Callable[[str], Any] = jsonargparse.get_loader("yaml")


def load_yaml(text: str) -> Any:
    """What a recipe's YAML holds, as the library that parses reads it (1e-3 is a number)."""
    return files.load_yaml(text, _load)


class Word(str):
    """A value as it stands on the command line."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of a group or a class.

    Args:
        kinds: their types by name.
        required: those that have no default.
        others: whether it takes fields of any name besides.
    """

    kinds: Mapping[str, Any]
    required: frozenset[str] = frozenset()
    others: bool = False


def problem_of(given: Mapping[str, Any], fields: Fields, above: str = "") -> str | None:
    """The first problem in nested fields; None where there is none.

    Args:
        given: values by name, as in a recipe's YAML file.
        fields: what there is.
        above: name of the group that they belong to.
    """
    for name, value in given.items():
        field = f"{above}.{name}".lstrip(".")
        if name not in fields.kinds and not fields.others:
            return _unknown(field, list(_nested(fields, above)))
        if found := _problem(field, value, fields.kinds.get(name, Any)):
            return found
    missing = [f"{above}.{name}".lstrip(".") for name in fields.kinds if name in fields.required and name not in given]
    return f"{', '.join(missing)}: missing; give it in the recipe or as --field value" if missing else None


def given_by(arguments: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The nested fields that a command line and its YAML files give.

    Args:
        arguments: of the command line.
        defaults: where they start from.

    Raises:
        BadInput: a word belongs to no option, an option has no value, or a file is no recipe.
    """
    given: dict[str, Any] = dict(defaults)
    for name, value in options_of(arguments):
        if name == "config":
            given = _merged(given, read_config(value))
        else:
            given = _merged(given, _tree(name.split("."), Word(value)))
    return given


def options_of(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each option of a command line, in order; without those that take no value.

    Raises:
        BadInput: a word belongs to no option, or an option has no value.
    """
    words = iter(arguments)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            raise BadInput(f"{word!r} belongs to no option; it must be --field value")
        if name in FLAGS and not equals:
            continue
        if not equals and ((value := next(words, "--")).startswith("--")):
            raise BadInput(f"{name}: missing; give its value")
        yield name.removesuffix("+"), value


def read_config(given: str) -> dict[str, Any]:
    """The fields of a recipe's file, or of YAML that is given in its place.

    Raises:
        BadInput: it is none.
    """
    try:
        found = load_yaml(Path(given).read_text() if "\n" not in given and not given.startswith("{") else given)
    except OSError as error:
        raise BadInput(f"config: {given!r} is not allowed ({error.strerror}); {NO_RECIPE}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(f"config: {given!r} is not allowed ({yaml_problem(error)}); {NO_RECIPE}") from error
    if not isinstance(found, dict):
        raise BadInput(f"config: {given!r} is not allowed (it holds no fields); {NO_RECIPE}")
    return found


def yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, and where."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or getattr(error, 'reason', None) or type(error).__name__}{where}"


@cache
def fields_of(cls: Callable[..., Any]) -> Fields:
    """What a class is constructed from; of an optimizer, without the parameters that it is to update."""
    parameters = inspect.signature(cls).parameters
    try:
        hints = get_type_hints(getattr(cls, "__init__", cls))
    except (NameError, TypeError):
        hints = {}
    own = {n: p for n, p in parameters.items() if n != "params" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    required = frozenset(name for name, parameter in own.items() if parameter.default is parameter.empty)
    return Fields(
        {n: hints.get(n, Any) for n in own}, required, any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    )


def readable(kind: Any) -> str:
    """What a type allows, in words."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if _is_union(kind):
        return " or ".join(dict.fromkeys(readable(one) for one in get_args(kind) if one in NAMES or get_origin(one)))
    if get_origin(kind) in (list, tuple, set):
        return "a list"
    if get_origin(kind) is dict:
        return "a group of fields"
    return NAMES[kind] if kind in NAMES else str(getattr(kind, "__name__", kind))


def allowed_class(base: type) -> str:
    """What may be named where a class of this kind is asked for."""
    if base is torch.optim.Optimizer:
        return "a class of torch.optim, such as SGD or AdamW"
    return f"one of {', '.join(sorted(known(base)))}, or a class path"


# -- one value ---------------------------------------------------------------------------------------------------------


def _problem(field: str, value: Any, kind: Any) -> str | None:
    base = _base(kind)
    if isinstance(value, Word) and (base or dataclasses.is_dataclass(kind) or _items(kind) or value == "null"):
        try:
            loaded = load_yaml(str(value))
        except (ValueError, yaml.YAMLError) as error:
            return f"{field}: {str(value)!r} is not allowed ({yaml_problem(error)}); it must be {_allowed(kind)}"
        value = value if isinstance(loaded, str | int | float) else loaded
    if value is None:
        allows = kind in (Any, inspect.Parameter.empty) or type(None) in get_args(kind)
        return None if allows else f"{field}: null is not allowed; it must be {_allowed(kind)}"
    if base:
        return _problem_of_class(field, value, base)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return problem_of(value, fields_of(kind), field)  # type: ignore[arg-type]
        return f"{field}: {value!r} is not allowed; it must be {_allowed(kind)}, or --{field}.name value"
    if (item := _items(kind)) is not None and isinstance(value, list):
        return next((found for one in value if (found := _problem(field, one, item))), None)
    return None if _fits(value, kind) else f"{field}: {value!r} is not allowed; it must be {_allowed(kind)}"


def _problem_of_class(field: str, value: Any, base: type) -> str | None:
    given = value if isinstance(value, dict) else {"class_path": value}
    path = given.get("class_path")
    if path is None:
        return f"{field}: missing; it must be {allowed_class(base)}"
    try:
        cls = class_named(base, path if isinstance(path, str) else str(path))
    except LookupError as error:
        return f"{field}: {str(path)!r} {error}; it must be {allowed_class(base)}"
    own = {name: inner for name, inner in given.items() if name not in ("class_path", "init_args")}
    return problem_of({**(given.get("init_args") or {}), **own}, fields_of(cls), field)


def _fits(value: Any, kind: Any) -> bool:
    """Whether the library that parses takes the value as one of this type."""
    if kind in (Any, inspect.Parameter.empty) or type(value) in (kind, *get_args(kind)):
        return True
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        parser.parse_args([f"--value={value}"]) if isinstance(value, Word) else parser.parse_object({"value": value})
    except (jsonargparse.ArgumentError, ValueError, TypeError):
        return False
    return True


def _base(kind: Any) -> type | None:
    """The kind of class that is asked for; None where it is none."""
    if get_origin(kind) is not None and torch.optim.Optimizer in get_args(kind):
        return torch.optim.Optimizer
    return kind if kind in BASES else None


def _items(kind: Any) -> Any:
    """The type of a list's items; None where it is no list."""
    lists = [one for one in (get_args(kind) if _is_union(kind) else [kind]) if get_origin(one) in (list, tuple)]
    return get_args(lists[0])[0] if lists else None


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _allowed(kind: Any) -> str:
    if dataclasses.is_dataclass(kind):
        return f"a group of fields ({', '.join(one.name for one in dataclasses.fields(kind))})"
    base = _base(kind)
    return allowed_class(base) if base else readable(kind)


# -- names -------------------------------------------------------------------------------------------------------------


def _tree(path: Sequence[str], value: Any) -> dict[str, Any]:
    """`a.b.c` as nested fields."""
    return {path[0]: _tree(path[1:], value) if len(path) > 1 else value}


def _merged(before: Any, after: Any) -> Any:
    """Nested fields after others; another class does not inherit the fields of the one before it."""
    if isinstance(before, str) and isinstance(after, dict):  # fields of a class that was named before
        before = {"class_path": before}
    if not isinstance(before, dict) or "class_path" not in before:
        if not isinstance(before, dict) or not isinstance(after, dict):
            return after
        return {**before, **{name: _merged(before[name], v) if name in before else v for name, v in after.items()}}
    given = after if isinstance(after, dict) else {"class_path": after}
    if bare(str(given.get("class_path", before["class_path"]))) != bare(str(before["class_path"])):
        return given
    own = {name: value for name, value in given.items() if name not in ("class_path", "init_args")}
    return {**before, "init_args": _merged(before.get("init_args") or {}, {**(given.get("init_args") or {}), **own})}


def _nested(fields: Fields, above: str) -> Iterable[str]:
    for name, kind in fields.kinds.items():
        field = f"{above}.{name}".lstrip(".")
        yield field
        if dataclasses.is_dataclass(kind):
            yield from _nested(fields_of(kind), field)  # type: ignore[arg-type]


def _unknown(field: str, candidates: Sequence[str]) -> str:
    group, _, name = field.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in candidates if k.rpartition(".")[0] == group}
    close = [siblings[n] for n in difflib.get_close_matches(name, siblings, n=3)]
    close = close or [k for k in candidates if k.endswith(f".{name}")]
    hint = "`dist-dash train --print_config` shows all fields"
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif group and siblings:
        hint = f"known here: {', '.join(sorted(siblings))}"
    return f"{field}: no such field; {hint}"
