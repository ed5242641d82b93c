"""The choices of runs by field, and in what they differ; names of classes that stay the same where a file moves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HARMLESS = (
    "record",
    "checks",
    *(f"checkpoints.{name}" for name in ("every_steps", "every_epochs", "keep", "at_start")),
    "loader.workers",
    "members",
)
"""What a resumed run may change; the layout is compared in place of `members`."""
OURS = re.compile(r"dist_dash(?:\.\w+)*\.([A-Z]\w*)")


def bare(path: str) -> str:
    """`dist_dash.any.module.Name`, of this version or an earlier one, as `Name`; any other text as it is."""
    match = OURS.fullmatch(path)
    return match[1] if match else path


def spelled(value: Any) -> Any:
    """Nested choices, with the names of this project's classes as they are written today."""
    if isinstance(value, dict):
        return {name: spelled(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [spelled(inner) for inner in value]
    return bare(value) if isinstance(value, str) else value


def flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested choices by field, `method.rho_div`: a component's own choices stand beside its `class_path`.

    Args:
        nested: as in `recipe.yaml`; or flat already, as in the manifests of checkpoints.
        above: name of the group that they belong to.
    """
    found: dict[str, Any] = {}
    for name, value in nested.items():
        field = ".".join(part for part in f"{above}.{name}".split(".") if part not in ("", "init_args"))
        if isinstance(value, Mapping) and value:
            found |= flat(value, field)
        elif name != "init_args":
            found[field] = spelled(value)
    return found


def under(field: str, groups: Iterable[str]) -> bool:
    """Whether a field is one of these, or belongs to one of them."""
    return any(field == group or field.startswith(f"{group}.") for group in groups)


def differing(choices: Sequence[Mapping[str, Any]], harmless: Iterable[str] = ()) -> dict[str, list[Any]]:
    """The fields in which flat choices differ, in the order of the first, and each one's value; None where it has none.

    Args:
        choices: as `flat` gives them.
        harmless: fields and groups that may differ.
    """
    absent, fields = object(), dict.fromkeys(name for one in choices for name in one)
    return {
        name: [one.get(name) for one in choices]
        for name in fields
        if not under(name, harmless) and any(one.get(name, absent) != choices[0].get(name, absent) for one in choices)
    }
