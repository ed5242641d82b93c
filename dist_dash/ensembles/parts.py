"""The runs of members that were trained alone: who is there, what they hold, whether they belong together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dist_dash.errors import BadInput
from dist_dash.files import read_json
from dist_dash.metrics.predictions import load_arrays
from dist_dash.runs.choices import HARMLESS, differing, flat
from dist_dash.runs.folder import RunFolder

MAY_DIFFER = tuple(name for name in HARMLESS if name != "members")
OF_THE_DATA = ("format", "shape", "classes", "class_names", "uint8")


class Incomplete(BadInput):
    """Members are missing, or not finished."""


@dataclass(frozen=True)
class Part:
    """One member's finished run.

    Args:
        folder: the run.
        recipe: its resolved recipe, nested.
        environment: its `environment.json`.
        spec: its `ensemble.json`.
    """

    folder: RunFolder
    recipe: dict[str, Any]
    environment: dict[str, Any]
    spec: dict[str, Any]

    def lines(self) -> list[dict[str, Any]]:
        """Its `metrics.jsonl`, parsed.

        Raises:
            BadInput: the file is missing or holds something else.
        """
        metrics = self.folder.metrics
        try:
            return [json.loads(line) for line in metrics.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise BadInput(f"run: {metrics} is missing or unreadable ({type(error).__name__})") from error


def parts_of(folder: RunFolder) -> list[Part]:
    """All members' runs in `folder`, in member order.

    Raises:
        Incomplete: some are missing or not finished.
        BadInput: they do not belong together.
    """
    there = folder.members()
    if not there:
        how = f"dist-dash train --members M --member I --run {folder.member(0).path.with_name('member_0I')}"
        raise Incomplete(f"run: {folder.path} holds no members; each is trained by `{how}`")
    recipes = {number: recipe for number in there if (recipe := _recipe(folder.member(number))) is not None}
    told = [recipe["members"] for recipe in recipes.values() if isinstance(recipe.get("members"), int)]
    members = max(told, default=max(there) + 1)
    states = {number: _unfinished(folder.member(number)) for number in range(members)}
    missing = [f"{folder.member(number).path.name} {state}" for number, state in states.items() if state]
    # What differs may be of an earlier attempt while members are missing: their jobs must not complain of it.
    _check_equal(folder, recipes, Incomplete if missing else BadInput)
    if strangers := [number for number in there if number >= members]:
        names = ", ".join(folder.member(number).path.name for number in strangers)
        raise BadInput(f"run: {folder.path} holds {names}, but the recipe has {members} members")
    if missing:
        raise Incomplete(f"run: {folder.path} cannot be joined: {', '.join(missing)}")
    parts = [_part(folder, number, recipes) for number in range(members)]
    _check_fit(folder, parts)
    return parts


def predictions_of(parts: Sequence[Part]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All members' `log_probs [members, N, C]` of the test split, and its `labels [N]`.

    Raises:
        BadInput: a file is missing or holds something else, or the members were evaluated on different samples.
    """
    arrays = [load_arrays(part.folder.predictions, "predictions") for part in parts]
    for number, (part, found) in enumerate(zip(parts, arrays, strict=True)):
        if not {"log_probs", "labels"} <= set(found) or found["log_probs"].ndim != 3 or len(found["log_probs"]) != 1:
            raise BadInput(f"predictions: {part.folder.predictions} does not hold one member's log_probs and labels")
        ours, theirs = found["labels"], arrays[0]["labels"]
        if ours.shape != theirs.shape or (ours != theirs).any():
            how = f"{len(theirs)} and {len(ours)} samples"
            if len(ours) == len(theirs):
                how = f"{(ours != theirs).sum()} of {len(ours)}"
            raise BadInput(f"predictions: the labels of members 0 and {number} differ ({how}); their test data did")
        if found["log_probs"].shape != arrays[0]["log_probs"].shape:
            raise BadInput(f"predictions: the shapes of log_probs of members 0 and {number} differ")
    return np.concatenate([found["log_probs"] for found in arrays]), arrays[0]["labels"]


def _recipe(member: RunFolder) -> dict[str, Any] | None:
    """A member's recipe; None where it has not written it yet."""
    try:
        recipe = yaml.safe_load(member.recipe.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"run: {member.recipe} is unreadable ({type(error).__name__})") from error
    if not isinstance(recipe, dict):
        raise BadInput(f"run: {member.recipe} is no recipe")
    return recipe


def _unfinished(member: RunFolder) -> str:
    """What a member's folder says of it; nothing where it is finished."""
    if not member.path.is_dir():
        return "is missing"
    # Listed, not asked for by name: a network file system remembers for a while that a name was not there.
    if member.done.name in {path.name for path in member.path.iterdir()}:
        return ""
    for marker, what in ((member.failed, "has failed"), (member.to_continue, "was stopped")):
        if marker.exists():
            return f"{what} ({marker.read_text().strip() or 'it did not say why'})"
    return "is not finished"


def _part(folder: RunFolder, number: int, recipes: dict[int, dict[str, Any]]) -> Part:
    member = folder.member(number)
    environment, spec = read_json(member.environment, "run"), read_json(member.ensemble / "ensemble.json", "run")
    entries = spec.get("members") if isinstance(spec, dict) else None
    if number not in recipes or not isinstance(environment, dict) or not isinstance(entries, list):
        raise BadInput(f"run: {member.path} is no finished run of one member")
    names = [str(entry.get("file")) for entry in entries if isinstance(entry, dict)]
    held = [name for name in names if (member.ensemble / name).is_file()]
    if held != [folder.weights(number)]:
        found = ", ".join(held) or "no weights"
        raise BadInput(f"run: {member.path} holds {found}; it must hold {folder.weights(number)} and nothing else")
    return Part(member, recipes[number], environment, spec)


def _check_fit(folder: RunFolder, parts: Sequence[Part]) -> None:
    """Refuse members of different numbers of replicas, which are no part of a recipe, or of different data."""
    found = {}
    for number, part in enumerate(parts):
        data = {name: part.spec.get(name) for name in OF_THE_DATA}
        found[number] = {"replicas": part.environment.get("layout", {}).get("replicas"), "data": data}
    _check_equal(folder, found)
    for name in ("mean", "std"):  # of unlike machines, they may differ in the last digits
        values = [np.asarray(part.spec.get(name), dtype=float) for part in parts]
        odd = [n for n, v in enumerate(values) if v.shape != values[0].shape or not np.allclose(v, values[0], 1e-5)]
        if odd:
            raise BadInput(f"run: the members in {folder.path} were trained on different data: {name} of {_some(odd)}")


def _check_equal(folder: RunFolder, choices: dict[int, dict[str, Any]], kind: type[BadInput] = BadInput) -> None:
    """Refuse members of which each was told something else."""
    found = []
    for field, values in differing([flat(one) for one in choices.values()], MAY_DIFFER).items():
        whose: dict[str, list[int]] = {}
        for number, value in zip(choices, values, strict=True):
            whose.setdefault(repr(value), []).append(number)
        found.append(f"{field} " + ", ".join(f"{_shortened(value)} ({_some(of)})" for value, of in whose.items()))
    if found:
        what = "; ".join(found[:8]) + ("; …" if len(found) > 8 else "")
        raise kind(f"run: the members in {folder.path} were trained differently: {what}")


def _some(members: Sequence[int]) -> str:
    return _shortened(f"member{'s' * (len(members) > 1)} " + " ".join(map(str, members)))


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
