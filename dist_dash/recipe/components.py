"""Components that a file names: made of this project's own classes, and of other code where the user allows it.

A recipe on the command line is the user's own and may name anything (`parsing.py`). A run folder may be somebody
else's: nothing that its files name is imported unasked.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar, cast

from dist_dash.errors import BadInput
from dist_dash.models import Custom
from dist_dash.recipe.classes import class_named, known
from dist_dash.recipe.problems import fields_of
from dist_dash.recipe.typed import typed
from dist_dash.runs.choices import bare

Base = TypeVar("Base")  # an abstract class, which mypy does not take for a `type`


@dataclasses.dataclass(frozen=True)
class Component:
    """An object by its class, as files hold it.

    Args:
        class_path: a bare name of this project's, or a path.
        init_args: of its constructor.
    """

    class_path: str
    init_args: dict[str, Any] = dataclasses.field(default_factory=dict)

    def code(self, base: type) -> str | None:
        """What must be imported from outside the project to make it, `module.Class` or `module:callable`; or None."""
        own = known(base).get(bare(self.class_path))
        return self.class_path if own is None else _target(self.init_args) if own is Custom else None


def check_code(named: Iterable[str | None], allowed: Collection[str], where: object) -> None:
    """Refuse code that is not this project's own.

    Args:
        named: what is to be imported, as `Component.code` gives it.
        allowed: what the user allows.
        where: the file that names it.

    Raises:
        BadInput: some of it is not allowed, and was not imported.
    """
    if foreign := list(dict.fromkeys(code for code in named if code is not None and code not in allowed)):
        if absent := [code for code in foreign if bare(code) != code or not {".", ":"} & {*code}]:
            raise BadInput(f"run: {where} names {absent[0]!r}, which this version does not have")
        options, listed = " ".join(f"--allow-code {code}" for code in foreign), ", ".join(map(repr, foreign))
        raise BadInput(
            f"run: {where} names code that is not this project's own, {listed}; if you trust it: {options} "
            f"(in Python: allow_code=[{listed}])"
        )


def made(component: Component, base: Callable[..., Base]) -> Base:
    """The object itself; its code must have been checked.

    Raises:
        BadInput: there is no such class, or it does not take these arguments.
    """
    given, path, of = component.init_args, component.class_path, cast("type", base)
    try:
        cls = class_named(of, path)
    except LookupError as error:
        raise BadInput(f"{path} {error}") from error
    if cls in known(of).values():
        fields = fields_of(cls)
        kinds = [(name, kind, *([] if name in fields.required else [None])) for name, kind in fields.kinds.items()]
        values: Any = typed(given, dataclasses.make_dataclass(cls.__name__, kinds, kw_only=True), cls.__name__)
        given = {name: getattr(values, name) for name in given}
    try:
        inspect.signature(cls).bind(**given)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path} does not take these arguments ({error})") from error
    found: Base = cls(**given)
    return found


def code_named(choices: Any) -> set[str]:
    """All classes and callables in a recipe of the user's own, nested as in `recipe.yaml`: naming them allows them."""
    return set(_code(choices))


def _code(choices: Any) -> Iterator[str]:
    if isinstance(choices, dict):
        if isinstance(path := choices.get("class_path"), str):
            yield path
            yield _target(choices.get("init_args")) or path
        choices = list(choices.values())
    if isinstance(choices, list):
        for inner in choices:
            yield from _code(inner)


def _target(arguments: Any) -> str | None:
    """The callable that `Custom` calls."""
    target = arguments.get("target") if isinstance(arguments, dict) else None
    return target if isinstance(target, str) else None
