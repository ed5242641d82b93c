"""A comparison in words: what was compared, what was found, what it cannot show."""

from __future__ import annotations

from pathlib import Path

from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.section import Section
from dist_dash.comparison.selection import GROUPS
from dist_dash.comparison.verdict import verdict
from dist_dash.errors import BadInput
from dist_dash.files import read_json
from dist_dash.report.tables import DIFFERENCES, MEANINGS

MOST_GROUPS = 3  # of more, the sentences about each against each baseline are folded: the table above them says it all


def about(comparison: Comparison) -> str:
    """What was compared, in a few sentences."""
    sections = comparison.sections
    runs = [run for section in sections for group in section.groups for run in group.runs]
    names = dict.fromkeys(group.name for section in sections for group in section.groups)
    seeds = sorted({run.seed for run in runs})
    conditions = f" under {len(sections)} conditions" if len(sections) > 1 else ""
    samples = f", {runs[0].samples} samples" if runs[0].samples else ""
    return (
        f"{_count(len(runs), 'run')} of {_count(len(names), 'group')}{conditions}, seed{'s' * (len(seeds) != 1)} "
        f"{', '.join(map(str, seeds))}. All scores are of the {runs[0].split} split{samples}. Better and worse are "
        "said only where the 95 % interval of the differences, paired by seed, excludes 0."
    )


def sentences(section: Section) -> tuple[list[str], list[str]]:
    """The verdict; and what of it is folded: how each of many groups stands to each baseline."""
    told = verdict(section)
    if len(section.groups) <= MOST_GROUPS:
        return told, []
    folded = [one for one in told if any(f" against {baseline}: " in one for baseline in section.baselines)]
    return [one for one in told if one not in folded], folded


def glossary(comparison: Comparison) -> dict[str, str]:
    """What the names of the columns mean, of those that there are."""
    metrics = {metric for section in comparison.sections for metric in section.metrics}
    figures = {metric.partition(".")[2] for metric in metrics}
    found = {name: meaning for name, meaning in {**MEANINGS, **DIFFERENCES}.items() if name in figures}
    if any(figure.startswith("cal_") for figure in figures):
        found["cal_…"] = (
            "the same after temperature scaling, the temperature fitted on one random half of the samples and the "
            "score taken on the other, both ways, averaged over 5 random splits"
        )
    found["equivalent"] = "members that a plain deep ensemble needs for the same NLL"
    return found


def limits(comparison: Comparison) -> list[str]:
    """What the comparison cannot show, whatever it found."""
    counts = sorted({len(group.runs) for section in comparison.sections for group in section.groups})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else _count(counts[0], "seed")
    return [
        f"Each group has {seeds}: intervals over so few are wide and rest on assumptions.",
        "Seeds change the training (initial weights, order, augmentation, label noise where there is some), not the "
        "samples that scores are taken on: the intervals tell nothing about other data.",
        "Every interval holds for itself: of twenty comparisons that differ in nothing, one will look like a "
        "difference.",
    ]


def notes_of(folder: Path) -> list[str]:
    """The sentences of `groups.json` that its writer wants read: how settings were chosen, what does not carry over.

    Raises:
        BadInput: they are no list of texts.
    """
    if not (folder / GROUPS).exists():
        return []
    content = read_json(folder / GROUPS, "groups")
    notes = content.get("notes", []) if isinstance(content, dict) else []
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BadInput(f"groups: notes in {folder / GROUPS} are wrong; they must be a list of texts")
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
