"""Whether a field took effect in a recipe: parsers skip fields that a class lacks, and a later value replaces it."""

from __future__ import annotations

from typing import Any

import yaml

ABSENT = object()  # equals nothing that a field could be given


def has_effect(name: str, given: Any, resolved: dict[str, Any]) -> bool:
    """Whether a recipe says what a field was given.

    Args:
        name: of the field, nested by dots, without `init_args` between a class and its fields.
        given: a number, text, list, group of fields, or class.
        resolved: `Command.resolved`, every default written out.
    """
    return _same(given, _looked_up(name, resolved))


def _looked_up(name: str, resolved: dict[str, Any]) -> Any:
    found: Any = resolved
    for part in name.split("."):
        if isinstance(found, dict) and part not in found:
            found = found.get("init_args")
        if not isinstance(found, dict) or part not in found:
            return ABSENT
        found = found[part]
    return found


def _same(given: Any, found: Any) -> bool:
    """Whether both mean the same in a recipe: a class by its path, defaults written out, 1.0 for 1."""
    if isinstance(found, dict) and "class_path" in found:
        named = given if isinstance(given, dict) else {"class_path": given}
        same = str(found["class_path"]).rpartition(".")[2] == str(named.get("class_path")).rpartition(".")[2]
        return same and _same(named.get("init_args") or {}, found.get("init_args") or {})
    if isinstance(given, dict) and isinstance(found, dict):
        return all(name in found and _same(value, found[name]) for name, value in given.items())
    if isinstance(given, list) and isinstance(found, list):
        return len(given) == len(found) and all(map(_same, given, found))
    if isinstance(given, str) and isinstance(found, int | float):
        given = _number(given)
    return bool(given == found)


def _number(text: str) -> Any:
    """What a text stands for where a number or a truth value is wanted: `1e-3` is a text in YAML."""
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
