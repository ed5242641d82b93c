"""Which runs are compared: those named, those below a folder, or those that a folder's `groups.json` names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from annotated_types import MinLen

from dist_dash.errors import BadInput, require
from dist_dash.files import read_json
from dist_dash.recipe.typed import Allowed, Texts, typed
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.states import natural

GROUPS = "groups.json"


@dataclass(frozen=True)
class SelectedRun:
    """A run to compare, and its group.

    Args:
        path: the run's folder.
        group: of `groups.json`; None without.
        section: of `groups.json`; None without.
    """

    path: Path
    group: str | None = None
    section: str | None = None


@dataclass(frozen=True)
class SelectedRuns:
    """What is to be compared.

    Args:
        places: finished runs, at least one, in the order of display.
        title: of the whole.
        baselines: what `groups.json` compares with.
        notes: what was left out.
        partial: whether runs that should be there are not.
        remarks: what the writer of `groups.json` wants read: how settings were chosen, what does not carry over.
    """

    places: tuple[SelectedRun, ...]
    title: str = ""
    baselines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    partial: bool = False
    remarks: tuple[str, ...] = ()


def select(paths: Sequence[Path], partial: bool) -> SelectedRuns:
    """The finished runs that the paths name.

    Args:
        paths: run folders, and folders with run folders at any depth; or one folder with a `groups.json`.
        partial: go on without the runs that are named but not finished.

    Raises:
        BadInput: there is nothing to compare, or what is named is not finished, or `groups.json` is wrong.
    """
    require(bool(paths), "runs", "nothing", "finished runs, or a folder of them")
    for path in paths:
        if not path.is_dir():
            raise BadInput(f"runs: {path} is {'a file' if path.exists() else 'missing'}; it must be a finished run")
    if len(paths) == 1 and not _is_run(paths[0]) and (paths[0] / GROUPS).exists():
        return _of_groups(paths[0], partial)
    places, notes, missing = list[SelectedRun](), list[str](), list[Path]()
    for path in paths:
        if _is_run(path):
            if is_finished(path):
                places.append(SelectedRun(path))
            else:
                missing.append(path)
            continue
        finished, unfinished = runs_below(path)
        if not finished:
            how = f"; {_some(unfinished)} not finished" if unfinished else ""
            raise BadInput(f"runs: {path} holds no finished run{how}; it must be a run or have finished ones below it")
        places.extend(map(SelectedRun, finished))
        if unfinished:
            notes.append(f"Left out, not finished: {_some(unfinished)}.")
        if (path / GROUPS).exists():
            notes.append(f"{path / GROUPS} is not used: it counts only where its folder is the only argument.")
    if missing:
        notes.append(_without(missing, len(places) + len(missing), partial))
    if not places:
        raise BadInput("runs: none of them is finished; at least one must be")
    return SelectedRuns(tuple(places), notes=tuple(notes), partial=bool(missing))


def runs_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The finished and the other run folders in `folder`, each in natural order (s2 before s10).

    Members that were trained alone are no runs: the folder in which they are joined is one, once they are.
    """
    finished, unfinished = list[Path](), list[Path]()
    for name, folders, _ in os.walk(folder):
        path = Path(name)
        if _is_run(path) or RunFolder(path).members():
            (finished if is_finished(path) else unfinished).append(path)
            folders.clear()
        folders[:] = [below for below in folders if not below.startswith(".")]
    return _in_order(finished), _in_order(unfinished)


def is_finished(path: Path) -> bool:
    """Whether a run is finished and its ensemble exported."""
    run = RunFolder(path)
    return run.done.exists() and run.recipe.is_file() and (run.ensemble / "ensemble.json").is_file()


def _is_run(path: Path) -> bool:
    return RunFolder(path).is_one_run()


def _in_order(paths: Sequence[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: [natural(part) for part in path.parts])


def _without(missing: Sequence[Path], all_runs: int, partial: bool) -> str:
    """The note that runs are missing.

    Raises:
        BadInput: that was not allowed.
    """
    more = f" and {len(missing) - 1} more of {all_runs} runs are" if len(missing) > 1 else " is"
    what = f"{missing[0]}{more} not finished"
    if not partial:
        raise BadInput(f"runs: {what}; finish what is missing, or go on without by --partial")
    return f"Partial: {what}, and left out."


def _some(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(map(str, paths[:3])) + more


# -- groups.json -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupEntry:
    """What `groups.json` says of a run.

    Args:
        group: its name.
        section: its name; may be empty.
    """

    group: Annotated[str, MinLen(1), Allowed("the name of a group")]
    section: str = ""


@dataclass(frozen=True)
class GroupsFile:
    """A `groups.json`.

    Args:
        runs: by their paths inside the folder.
        title: of the whole.
        baselines: names of groups.
        notes: sentences that a reader must know.
    """

    runs: Annotated[dict[str, GroupEntry], MinLen(1), Allowed("at least one run: {path: {group, section}}")]
    title: str = ""
    baselines: Texts = ()
    notes: Texts = ()

    def __post_init__(self) -> None:
        for name in self.runs:
            inside = bool(name) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
            require(inside, "runs", name, "a path inside the folder")


def _of_groups(folder: Path, partial: bool) -> SelectedRuns:
    file = folder / GROUPS
    content = read_json(file, "groups")
    try:
        groups = typed(content, GroupsFile, GROUPS)
    except BadInput as error:
        raise BadInput(f"groups: {error} (in {file})") from error
    places = [SelectedRun(folder / name, entry.group, entry.section) for name, entry in groups.runs.items()]
    missing = [place.path for place in places if not is_finished(place.path)]
    notes = [_without(missing, len(places), partial)] if missing else []
    there = tuple(place for place in places if place.path not in missing)
    if not there:
        raise BadInput(f"runs: none of the {len(places)} runs in {file} is finished; at least one must be")
    baselines = tuple(dict.fromkeys(groups.baselines))
    return SelectedRuns(there, groups.title, baselines, tuple(notes), bool(missing), groups.notes)
