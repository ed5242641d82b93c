"""Every picture that a comparison shows of a section, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dist_dash.comparison.section import Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.coverage import coverage_of_groups
from dist_dash.report.draw import Job
from dist_dash.report.embedding_groups import embedding_of_groups
from dist_dash.report.flatness_bars import flatness_bars
from dist_dash.report.groups import forest, members, quality
from dist_dash.report.picture import NotHere, Picture
from dist_dash.report.reliability import reliability_of_groups
from dist_dash.report.sizes import sizes_of_groups
from dist_dash.report.style import plain


@dataclass(frozen=True)
class FolderPart:
    """A picture: the name by which `--without` leaves it out, title where it cannot be drawn, what draws it."""

    name: str
    title: str
    draw: Callable[[Section], Picture]


def flatness_of_groups(section: Section) -> Picture:
    """Of the runs that were measured. Raises `NotHere`."""
    runs = {plain(group.name, 32): [FinishedRun(run.path) for run in group.runs] for group in section.groups}
    measured = {name: [run for run in of if run.folder.flatness.is_file()] for name, of in runs.items()}
    if not any(measured.values()):
        raise NotHere("Nobody has measured how flat these members are; `dist-dash flatness RUN` does it for a run.")
    return flatness_bars(measured)


FOLDER_PARTS = (
    FolderPart("differences", "Differences to the baselines", forest),
    FolderPart("quality", "Accuracy against NLL", quality),
    FolderPart("members", "How members differ against how good they are", members),
    FolderPart("sizes", "Scores against the number of members", sizes_of_groups),
    FolderPart("coverage", "Accuracy against coverage", coverage_of_groups),
    FolderPart("reliability", "Reliability", reliability_of_groups),
    FolderPart("embedding", "Members' predictions over training", embedding_of_groups),
    FolderPart("flatness", "Flatness by group", flatness_of_groups),
)


def jobs_of(section: Section, parts: tuple[FolderPart, ...], prefix: str) -> list[Job]:
    """What is to be drawn of a section; the names of its files begin with a prefix."""
    return [Job(part.title, part.draw, (section,), prefix) for part in parts]
