"""Finished runs, compared: read, sorted into sections and groups, every figure summarised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_dash.comparison.compared_run import ComparedRun, read_run
from dist_dash.comparison.equivalent import with_equivalents
from dist_dash.comparison.section import Group, Section, group_of, section_of
from dist_dash.comparison.selection import SelectedRun, select
from dist_dash.comparison.settings import Settings, names, section_names
from dist_dash.data.same_data import what_differs
from dist_dash.errors import BadInput
from dist_dash.runs.choices import PLACES, differing


@dataclass(frozen=True)
class Comparison:
    """All that was compared.

    Args:
        sections: one per condition, at least one.
        title: of the whole; may be empty.
        notes: what was left out.
        partial: whether runs that should be there are not.
        remarks: sentences of `groups.json` that a reader must know.
    """

    sections: tuple[Section, ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    partial: bool = False
    remarks: tuple[str, ...] = ()


def load_comparison(
    paths: Sequence[Path], partial: bool = False, baselines: Sequence[str] = (), equivalents: bool | None = None
) -> Comparison:
    """Read finished runs and compare them.

    Args:
        paths: run folders, and folders with runs at any depth; or one folder whose `groups.json` says what is in it.
        partial: go on without the runs that are named but not finished.
        baselines: names of groups that the others are compared with; default: those of `groups.json`, else plain SGD,
            else the first group.
        equivalents: whether to work out the plain deep ensembles that are as good, which needs their predictions; None
            does where those are small.

    Raises:
        BadInput: there is nothing to compare, the runs' data differ, two runs of a group have the same seed, a baseline
            is unknown, or a file holds something else than it should.
    """
    selection = select(paths, partial)
    runs = [read_run(place.path) for place in selection.places]
    _check_same_data(runs)
    if any(place.group is not None for place in selection.places):
        grouped = _by_names(selection.places, runs)
    else:
        grouped = _by_settings(runs)
    wanted = tuple(dict.fromkeys(baselines)) or selection.baselines
    _check_known(wanted, grouped, may_lack=selection.partial and not baselines)
    sections = []
    for name, groups in grouped.items():
        section = section_of(name, groups, wanted, _notes_on_settings(groups))
        sections.append(with_equivalents(section, equivalents))
    return Comparison(tuple(sections), selection.title, selection.notes, selection.partial, selection.remarks)


def _by_settings(runs: Sequence[ComparedRun]) -> dict[str, list[Group]]:
    """Groups of equal settings in sections of equal labels, in the order of first appearance."""
    conditions: dict[frozenset[tuple[str, str]], list[ComparedRun]] = {}
    for run in runs:
        conditions.setdefault(frozenset(run.labels.items()), []).append(run)
    titles = section_names([own[0].labels for own in conditions.values()])
    return {title: _groups(own) for title, own in zip(titles, conditions.values(), strict=True)}


def _groups(runs: Sequence[ComparedRun]) -> list[Group]:
    alike: dict[frozenset[tuple[str, str]], list[ComparedRun]] = {}
    for run in runs:
        alike.setdefault(frozenset(run.settings.items()), []).append(run)
    named = names([(own[0].method, own[0].settings) for own in alike.values()])
    return _made(dict(zip(named, alike.values(), strict=True)))


def _by_names(places: Sequence[SelectedRun], runs: Sequence[ComparedRun]) -> dict[str, list[Group]]:
    """The groups and sections of `groups.json`, in the order of first appearance."""
    found: dict[str, dict[str, list[ComparedRun]]] = {}
    for place, run in zip(places, runs, strict=True):
        found.setdefault(place.section or "", {}).setdefault(place.group or "", []).append(run)
    return {section: _made(groups) for section, groups in found.items()}


def _made(groups: Mapping[str, Sequence[ComparedRun]]) -> list[Group]:
    fields = list(differing([run.settings for runs in groups.values() for run in runs]))
    return [group_of(name, runs, _settings(runs[0].settings, fields)) for name, runs in groups.items()]


def _settings(settings: Settings, fields: Sequence[str]) -> dict[str, str]:
    return {field: settings[field] for field in fields if field in settings}


def _notes_on_settings(groups: Sequence[Group]) -> list[str]:
    """Notes on groups of `groups.json` whose runs differ in more than the seed."""
    found = []
    for group in groups:
        known = [{**run.settings, **run.labels} for run in group.runs]
        if fields := list(differing(known)):
            values = (", ".join(dict.fromkeys(one.get(field, "none") for one in known)) for field in fields[:3])
            what = "; ".join(f"{field} ({value})" for field, value in zip(fields, values, strict=False))
            found.append(f"{group.name}: its runs differ in more than the seed: {what}{'; …' * (len(fields) > 3)}.")
    return found


def _check_same_data(runs: Sequence[ComparedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        known = [{**one.data, "split": one.split, "samples": str(one.samples)} for one in (first, run)]
        for field in differing(known, PLACES if first.facts and run.facts else ()):
            ours, theirs = (one.get(field, "none") for one in known)
            what = "test labels" if field == "samples" else "data"
            raise BadInput(
                f"{field}: {first.path} has {ours}, {run.path} has {theirs}; runs of different {what} cannot be "
                "compared"
            )
        if first.facts and run.facts and (what := what_differs(first.facts, run.facts)):
            text = f"data: {run.path} was trained on other data than {first.path} ({what})"
            raise BadInput(f"{text}; runs of different data cannot be compared")


def _check_known(baselines: Sequence[str], grouped: Mapping[str, Sequence[Group]], may_lack: bool) -> None:
    there = dict.fromkeys(group.name for groups in grouped.values() for group in groups)
    unknown = [baseline for baseline in baselines if baseline not in there]
    if unknown and not may_lack:
        raise BadInput(f"baseline: {unknown[0]!r} is not allowed; it must be one of {', '.join(map(repr, there))}")
