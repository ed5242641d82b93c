"""The parser that every command uses."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

from dist_dash.errors import BadInput
from dist_dash.runs.process import OneLine


class CommandLine(OneLine):
    """The parser of one command; options cannot be abbreviated."""

    def __init__(self, command: str = "", **options: object) -> None:
        super().__init__(prog=f"dist-dash {command}".rstrip(), allow_abbrev=False, **options)  # type: ignore[arg-type]


def add_allow_code(parser: CommandLine) -> None:
    """The option of every command that makes networks or data of what a run folder names."""
    parser.add_argument(
        "--allow-code",
        action="append",
        default=[],
        metavar="TARGET",
        help="import this class or callable for the run's networks or data, where it names code that is not "
        "dist-dash's own: module.Class or module:callable; may be given several times",
    )


def of_recipe(parser: CommandLine, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and the arguments that are left for `dist-dash train`.

    Raises:
        BadInput: an option that is left cannot be a field of a recipe: those are written with underscores.
    """
    options, left = parser.parse_known_args(arguments)
    for name in (word.partition("=")[0] for word in left if word.startswith("--")):
        if "-" in name[2:]:
            close = difflib.get_close_matches(name, [o for action in parser._actions for o in action.option_strings])
            hint = f"did you mean {' or '.join(close)}?" if close else f"see `{parser.prog} --help`"
            raise BadInput(f"{name}: no such option; {hint}")
    return options, left


def without_fields(arguments: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """The command's own arguments; and those of the source `name`, `--name.field value`, each as `--name.field=value`.

    Raises:
        BadInput: the last field has no value.
    """
    ours: list[str] = []
    fields: list[str] = []
    left = iter(arguments)
    for argument in left:
        if not argument.startswith(f"--{name}."):
            ours.append(argument)
        elif "=" in argument:
            fields.append(argument)
        elif (value := next(left, None)) is not None:
            fields.append(f"{argument}={value}")
        else:
            raise BadInput(f"{argument.lstrip('-')}: missing; give its value")
    return ours, fields
