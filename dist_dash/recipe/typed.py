"""Fields that a person wrote, read into a dataclass: the types and the ranges are those of its annotations."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from dist_dash.errors import BadInput
from dist_dash.files import load_yaml

Model = TypeVar("Model")
UNKNOWN, MISSING = "unexpected_keyword_argument", "missing"
WORDS = {  # by the type of pydantic's error
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most a few digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a group of fields",
    "dataclass_type": "a group of fields",
    "finite_number": "a finite number",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number ≥ {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number ≤ {le:g}",
    "literal_error": "{expected}",
    "too_short": "{min_length} or more",
}


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What a field may hold, in words, for the message about anything else: `Annotated[int, Ge(1), Allowed("…")]`.

    Args:
        words: after "it must be".
    """

    words: str


Texts = Annotated[tuple[str, ...], Allowed("a list of texts")]


def yaml_texts(text: str) -> Any:
    """What a YAML text holds, every value as it is written."""
    return yaml.load(text, yaml.BaseLoader)


def read_yaml(path: Path, field: str, allowed: str, texts: bool = False) -> Any:
    """What a YAML or JSON file holds.

    Args:
        path: of the file.
        field: which names the file, for the message.
        allowed: what the file must be, for the message.
        texts: leave every value as it is written (YAML makes 86400 of 24:00:00).

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return load_yaml(path.read_text(), yaml_texts if texts else yaml.safe_load)
    except (OSError, ValueError, yaml.YAMLError) as error:
        text = re.sub(r' in "<\w+ string>",', ",", " ".join(str(error).split()))
        problem = error.strerror if isinstance(error, OSError) else text
        raise BadInput(f"{field}: {str(path)!r} is not allowed ({problem}); it must be {allowed}") from error


def typed(given: Any, model: type[Model], field: str, texts: bool = False) -> Model:
    """A dataclass made of what a file holds.

    Its annotations, and those of dataclasses inside it, say what is allowed; `__post_init__` may raise `BadInput`.

    Args:
        given: should be a mapping.
        model: the dataclass.
        field: which names the whole, for messages: fields inside it stand there by their own names.
        texts: whether numbers may be given as texts.

    Raises:
        BadInput: one line with the field, its value and what is allowed.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    # Dataclasses without a configuration of their own take that of what they are in. As JSON, because there groups of
    # fields are dataclasses and lists are tuples, while 1.0 or true are no whole numbers.
    adapter = TypeAdapter(tuple[model], config=ConfigDict(extra="forbid", strict=not texts))  # type: ignore[valid-type]
    try:
        text = json.dumps(given, default=str)
    except TypeError as error:
        raise BadInput(f"{field}: one of its names is no text ({error}); all must be") from error
    except (RecursionError, ValueError) as error:  # or it contains itself
        raise BadInput(f"{field}: its fields are nested too deeply; at most a few levels make sense") from error
    try:
        return adapter.validate_json(f"[{text}]")[0]
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = min(problems, key=lambda one: one["type"] != UNKNOWN)  # a misspelt field is a missing one as well
        raise BadInput(_line(first, first["loc"][1:], json.loads(text), model, field)) from error


def _line(problem: Mapping[str, Any], place: Sequence[int | str], given: Any, model: type, field: str) -> str:
    """The message about one of pydantic's errors."""
    kind, context = problem["type"], problem.get("ctx", {})
    levels = list(_levels(model, place if kind not in (UNKNOWN, MISSING) else place[:-1]))
    if kind == UNKNOWN:
        return f"{_dotted(place[:-1]) or field}: {_unknown(str(place[-1]), levels[-1][0])}"
    if kind == MISSING:
        return f"{_dotted(place[:-1]) or field}: {_missing(problem['input'], levels[-1][0])}"
    if isinstance(inner := context.get("error"), BadInput):
        return f"{_dotted(place)}.{inner}".removeprefix(".")
    own = depth, words = len(place), WORDS.get(kind, kind).format(**context)
    for level, (holds, allowed) in enumerate(levels):
        if dataclasses.is_dataclass(holds):  # what was said above does not speak for its fields
            depth, words = own
        if allowed:
            depth, words = level, allowed
    value = functools.reduce(lambda holds, part: holds[part], place[:depth], given)
    return f"{_dotted(place[:depth]) or field}: {_shown(value)} is not allowed; it must be {words}"


def _shown(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def _unknown(name: str, owner: Any) -> str:
    known = [field.name for field in dataclasses.fields(owner)]
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} is no field of it; " + (f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}")


def _missing(given: Mapping[str, Any], owner: Any) -> str:
    absent = dataclasses.MISSING
    needed = [one.name for one in dataclasses.fields(owner) if one.default is one.default_factory is absent]
    missing = ", ".join(name for name in needed if name not in given)
    return f"{missing} missing; it must have {', '.join(needed)}"


def _dotted(place: Sequence[int | str]) -> str:
    """`methods.SAM.trials[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _levels(kind: Any, place: Sequence[int | str]) -> Iterator[tuple[Any, str]]:
    """The type of a dataclass, of a field in it, of an entry in that, and so on, each with the words of `Allowed`."""
    bare, words = _bare(kind)
    yield bare, words
    if place:
        hints = get_type_hints(bare, include_extras=True) if dataclasses.is_dataclass(bare) else {}
        entries = [one for one in get_args(bare) if one is not ...]
        yield from _levels(hints[str(place[0])] if hints else entries[-1], place[1:])


def _bare(kind: Any) -> tuple[Any, str]:
    """A type without `Annotated` and `| None`, and the words of `Allowed`."""
    words = ""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        words = next((one.words for one in getattr(kind, "__metadata__", ()) if isinstance(one, Allowed)), words)
        kind = next(one for one in get_args(kind) if one is not type(None))
    return kind, words
