"""From `FIELD=V1,V2,…` to the points of a grid, each of them one run; all are checked before one is submitted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pprint import pformat

from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.recipe.run_names import run_name

LARGEST = 10_000  # points: a typing error such as seed=0..1000000000 must not fill the memory, or a queue
RESOURCES = "it decides how many ranks a job needs, and all points share that number"
PRINTS = "it prints instead of training"
REFUSED = {
    "run": "every point has a run folder of its own, named after its values",
    "config": "a sweep varies fields of one recipe",
    "fresh": "it must hold for all points or for none",
    "extend": "it trains a single run on",
    "members": RESOURCES,
    "replicas": RESOURCES,
    "members_per_rank": RESOURCES,
    "member": "the members of one ensemble are not points of a sweep",
}


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep.

    Args:
        name: unique in the sweep; a file name of A-Z, a-z, 0-9, `.`, `_` and `-`. It depends on the point's own values
            alone, so that a sweep that is submitted again with more values finds its runs.
        arguments: of `dist-dash train`.
    """

    name: str
    arguments: tuple[str, ...]


def points(base: Sequence[str], sweeps: Sequence[str]) -> list[SweepPoint]:
    """The full grid, in the order given: the last sweep changes fastest.

    Args:
        base: arguments of `dist-dash train` that all points share.
        sweeps: at least one `FIELD=V1,V2,…`. `0..4` stands for the whole numbers from 0 to 4, both included; a comma
            within brackets belongs to its value.

    Raises:
        BadInput: a sweep is malformed, gives a value or a field twice, or varies a field that a sweep may not vary.
    """
    if not sweeps:
        raise BadInput("sweep: missing; give at least one as FIELD=V1,V2,…, such as seed=0..4")
    axes: dict[str, list[str]] = {}
    for sweep in sweeps:
        field, values = _axis(sweep)
        if field in axes:
            raise BadInput(f"{field}: {sweep!r} sweeps over it a second time; give all of its values in one sweep")
        axes[field] = values
    count = math.prod(map(len, axes.values()))
    if count > LARGEST:
        raise BadInput(f"sweep: {count} points are not allowed; there may be at most {LARGEST}")
    # The name of a class resets the fields of the class before it: it must come before its fields.
    order = sorted(axes, key=lambda field: field.removesuffix(".class_path").count("."))
    grid: dict[str, SweepPoint] = {}
    for combination in product(*axes.values()):
        given = dict(zip(axes, combination, strict=True))
        point = SweepPoint(run_name(given), (*base, *(f"--{field}={given[field]}" for field in order)))
        if point.name in grid:
            raise BadInput(f"sweep: two points are called {point.name!r}; their values must make different names")
        grid[point.name] = point
    return list(grid.values())


def check(points: Sequence[SweepPoint]) -> list[Command]:
    """The parsed arguments of each point; refuses a sweep in which a point is bad input or repeats another one.

    The seed is independent of all other fields: every seed is checked once, and every combination of the others. Of
    seeds that are plain whole numbers only the smallest and the largest are parsed, since the allowed seeds are a
    range. Commands that differ in their seed alone share the objects of their recipe.

    Raises:
        BadInput: the problem and the name of the point.
    """
    seeds = _plain_seeds(points)
    combinations: dict[tuple[str, ...], tuple[Command, str]] = {}
    runs: dict[tuple[int, str], SweepPoint] = {}
    commands = []
    for point in points:
        seed, others = _apart(point)
        if seed not in seeds or others not in combinations:
            command = _parsed(point)
            seeds[seed] = command.recipe.seed
            # As sorted text: the order of fields makes no difference, but whether an untyped one is 1 or 1.0 may.
            combinations[others] = command, pformat({**command.resolved, "seed": None})
        command, rest = combinations[others]
        if earlier := runs.get((seeds[seed], rest)):
            raise BadInput(_repeated(point, earlier))
        runs[seeds[seed], rest] = point
        commands.append(_with_seed(command, seeds[seed]))
    return commands


# -- reading a sweep ---------------------------------------------------------------------------------------------------


def _axis(sweep: str) -> tuple[str, list[str]]:
    """The field of `FIELD=V1,V2,…` and its values, ranges written out."""
    field, equals, text = (part.strip() for part in sweep.partition("="))
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", field, re.ASCII):
        raise BadInput(f"sweep: {sweep!r} is not allowed; it must be FIELD=V1,V2,…, such as seed=0..4")
    reason = PRINTS if field.rpartition(".")[2] in ("help", "print_config") else REFUSED.get(field)
    if reason:
        raise BadInput(f"{field}: {text!r} is not allowed in a sweep; {reason}")
    parts = [part.strip() for part in _split(text)]
    if not all(parts):
        raise BadInput(f"{field}: {text!r} is not allowed; between commas there must be a value, such as {field}=A,B")
    values = [value for part in parts for value in _range(field, part)]
    if len(set(values)) < len(values):
        twice = next(value for index, value in enumerate(values) if value in values[:index])
        raise BadInput(f"{field}: {twice!r} is given twice in {text!r}; every point must be a run of its own")
    return field, values


def _split(text: str) -> list[str]:
    """The parts between commas; a comma within brackets does not separate."""
    depth, parts = 0, [""]
    for character in text:
        depth += (character in "[{(") - (character in ")}]")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _range(field: str, part: str) -> list[str]:
    """The whole numbers of `FIRST..LAST`; any other value is itself."""
    if not (match := re.fullmatch(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})", part)):
        return [part]
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise BadInput(f"{field}: {part!r} is not allowed; a range must ascend, such as {last}..{first}")
    if last - first >= LARGEST:
        raise BadInput(f"{field}: {part!r} is not allowed; a sweep may have at most {LARGEST} points")
    return [str(number) for number in range(first, last + 1)]


# -- checking the points -----------------------------------------------------------------------------------------------


def _plain_seeds(points: Sequence[SweepPoint]) -> dict[str | None, int]:
    """The seeds that need no parsing, as they are written and as numbers."""
    found = {seed for seed, _ in map(_apart, points) if seed and re.fullmatch(r"0|[1-9][0-9]{0,17}", seed)}
    between = sorted(found, key=int)[1:-1]
    return {seed: int(seed) for seed in between}


def _apart(point: SweepPoint) -> tuple[str | None, tuple[str, ...]]:
    """The seed as it is written, and all other arguments."""
    seeds = [a.partition("=")[2] for a in point.arguments if a.startswith("--seed=")]
    return (seeds[-1] if seeds else None), tuple(a for a in point.arguments if not a.startswith("--seed="))


def _parsed(point: SweepPoint) -> Command:
    try:
        return parse_command(point.arguments)
    except BadInput as error:
        raise BadInput(f"{error} (point {point.name})") from error


def _with_seed(command: Command, seed: int) -> Command:
    """The result of `parse_command` for another seed."""
    before = command.recipe.seed
    if seed == before:
        return command
    run, ending = command.run, f"-s{before}"
    if run.name.endswith(ending):  # the folder's default name
        run = run.with_name(f"{run.name.removesuffix(ending)}-s{seed}")
    recipe, resolved = replace(command.recipe, seed=seed), {**command.resolved, "seed": seed}
    return replace(command, recipe=recipe, resolved=resolved, run=run)


def _repeated(point: SweepPoint, earlier: SweepPoint) -> str:
    """The message about two points that are the same run, with the values that make no difference."""
    here, there = next(pair for pair in zip(point.arguments, earlier.arguments, strict=True) if pair[0] != pair[1])
    field, value, other = here.partition("=")[0].removeprefix("--"), here.partition("=")[2], there.partition("=")[2]
    return f"{field}: {value!r} after {other!r} changes nothing; {earlier.name} and {point.name} are the same run"
