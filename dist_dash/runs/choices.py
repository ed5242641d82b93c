"""The choices of runs by field, and in what they differ; names of classes that stay the same where a file moves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_dash.errors import BadInput

HARMLESS = (
    "record",
    "checks",
    *(f"checkpoints.{name}" for name in ("every_steps", "every_epochs", "keep", "at_start")),
    "loader.workers",
    "members",
)
"""What a resumed run may change; the layout is compared in place of `members`."""
PLACES = ("data.root", "data.path")
"""Where the data lie: no matter where their digest is known, for that says whether they are the same."""
WITHOUT_EFFECT = tuple(name for name in HARMLESS if name != "members")
"""What may differ between runs of the same results."""
LENGTH = ("epochs", "max_steps")
"""What `--extend` may change besides."""
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


class OtherSettings(BadInput):
    """A run was started with other settings than those that are wanted now."""


def refuse_other_settings(run: Path, differences: Mapping[str, Sequence[Any]]) -> None:
    """Refuse to go on with a run under other choices.

    Args:
        run: its folder.
        differences: by field, what it was started with and what is wanted now.

    Raises:
        OtherSettings: there are some; they are listed.
    """
    found = sorted(differences.items())
    if found:
        what = "; ".join(f"{field} {was!r} → {wanted!r}" for field, (was, wanted) in found[:8])
        more = "; …" if len(found) > 8 else ""
        train_on = "--extend, " if all(under(field, LENGTH) for field, _ in found) else ""
        how = f"use another --run, {train_on}or --fresh"
        raise OtherSettings(f"run: {run} was started with other settings ({what}{more}); {how}")
