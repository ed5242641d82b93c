"""The recipe that a run folder holds, and whether a command asks for the same run."""

from __future__ import annotations

from typing import Any

import yaml

from dist_dash.errors import BadInput
from dist_dash.files import load_yaml, read_json, read_object
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.runs.choices import LENGTH, PLACES, WITHOUT_EFFECT, differing, flat, refuse_other_settings, spelled
from dist_dash.runs.folder import RunFolder


def recipe_of(folder: RunFolder) -> dict[str, Any]:
    """Every choice of a run as names and numbers: `recipe.yaml`.

    Raises:
        BadInput: it is missing, or holds something else.
    """
    folder.check_as_finished(folder.recipe)
    try:
        found = load_yaml(folder.recipe.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"run: {folder.recipe} cannot be read ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise BadInput(f"run: {folder.recipe} holds no fields; it must be a recipe")
    return found


def finished_before(command: Command, members: int, replicas: int) -> bool:
    """Whether the command's run is finished, so that there is nothing left to do.

    Args:
        command: of `dist-dash train`.
        members: that it would train together.
        replicas: ranks per member.

    Raises:
        BadInput: the folder holds a finished run of other settings; what differs is listed. Or it, or data that lie
            elsewhere than the run's, cannot be read.
    """
    folder = RunFolder(command.run)
    if command.fresh or not folder.done.exists():
        return False
    sizes = {"members": members, "replicas": replicas, "first_member": command.member or 0}
    sizes_before, now = _sizes_of(folder, sizes), {**flat(command.resolved), **sizes}
    found = differing([{**flat(recipe_of(folder)), **sizes_before}, now], WITHOUT_EFFECT)
    if found:  # perhaps only in fields that an earlier version did not have
        before = {**completed_recipe(folder, command.resolved), **flat(recipe_of(folder)), **sizes_before}
        found = differing([before, now], WITHOUT_EFFECT)
    if any(field in PLACES for field in found) and _same_data(folder, command):
        found = {field: values for field, values in found.items() if field not in PLACES}
    longer = command.extend and not found.keys().isdisjoint(LENGTH)
    refuse_other_settings(folder.path, {k: v for k, v in found.items() if not (longer and k in LENGTH)})
    return not longer


def _same_data(folder: RunFolder, command: Command) -> bool:
    """Whether the command's data have the digest of a finished run's: then they have only moved. Raises `BadInput`."""
    known = read_object(folder.ensemble / "ensemble.json").get("data")
    then = known.get("digest") if isinstance(known, dict) else None
    return then is not None and command.recipe.data.load().facts.digest == then


def _sizes_of(folder: RunFolder, unknown: dict[str, int]) -> dict[str, Any]:
    """How many members and replicas were trained, by `environment.json`; what it does not say is taken for the same."""
    found = read_json(folder.environment, "run") if folder.environment.exists() else {}
    layout = found.get("layout") if isinstance(found, dict) else {}
    return {name: (layout if isinstance(layout, dict) else {}).get(name, value) for name, value in unknown.items()}


def completed_recipe(folder: RunFolder, own: dict[str, Any]) -> dict[str, Any]:
    """The flat recipe of a run, with today's defaults for fields that it lacks; empty where it does not parse today.

    The folder may be somebody else's, and parsing imports what a recipe names: nothing but what the user's own names.

    Args:
        folder: of the run.
        own: the user's recipe, nested.
    """
    if not _texts(spelled(recipe_of(folder))) <= _texts(own):
        return {}
    try:
        return flat(parse_command(["--config", str(folder.recipe)]).resolved)
    except BadInput:
        return {}


def _texts(choices: Any) -> set[str]:
    """Every text in nested choices."""
    if isinstance(choices, dict | list):
        inner = choices.values() if isinstance(choices, dict) else choices
        return set().union(*map(_texts, inner))
    return {choices} if isinstance(choices, str) else set()
