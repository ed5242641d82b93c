"""Every picture that a page can show, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dist_dash.comparison.section import Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.ascent_cosines import ascent_directions
from dist_dash.report.coverage_curves import coverage, coverage_of_groups
from dist_dash.report.draw import PictureJob
from dist_dash.report.embedding import embedding, embedding_of_groups
from dist_dash.report.flatness_bars import flatness_bars, flatness_of_groups
from dist_dash.report.group_pictures import forest, members, quality
from dist_dash.report.learning_curves import learning_curves
from dist_dash.report.loss_landscape import loss_plane, loss_within, segments
from dist_dash.report.pair_matrices import pairwise_matrices
from dist_dash.report.picture import Picture
from dist_dash.report.reliability_diagrams import reliability_diagrams, reliability_of_groups
from dist_dash.report.shift_pictures import corruption_errors, corruptions, detection, severity
from dist_dash.report.size_curves import sizes, sizes_of_groups
from dist_dash.report.step_time import step_time

Of = TypeVar("Of", FinishedRun, Section)


@dataclass(frozen=True)
class PagePart(Generic[Of]):
    """What is shown of a run or of a section.

    Args:
        name: by which `--without` leaves it out.
        title: heading.
        pictures: title where it cannot be drawn, and what draws it.
    """

    name: str
    title: str
    pictures: tuple[tuple[str, Callable[[Of], Picture]], ...]

    def jobs(self, of: Of, prefix: str = "") -> list[PictureJob]:
        """What is to be drawn; the names of the files begin with a prefix."""
        return [PictureJob(title, draw, (of,), prefix) for title, draw in self.pictures]


PARTS: tuple[PagePart[FinishedRun], ...] = (
    PagePart("learning", "Learning", (("Learning curves", learning_curves),)),
    PagePart("reliability", "Is the confidence right?", (("Reliability", reliability_diagrams),)),
    PagePart("coverage", "Does confidence tell right from wrong?", (("Accuracy against coverage", coverage),)),
    PagePart("matrices", "Do the members differ?", (("How each pair of members differs", pairwise_matrices),)),
    PagePart("embedding", "Members over training", (("Members' predictions over training", embedding),)),
    PagePart("sizes", "What does each member add?", (("Scores against the number of members", sizes),)),
    PagePart("directions", "Where do the members ascend?", (("Ascent directions", ascent_directions),)),
    PagePart(
        "landscape",
        "The loss between and around the members",
        (
            ("Loss on the plane through three members", loss_plane),
            ("Loss along the segments between members", segments),
            ("Loss within ρ of each member", loss_within),
        ),
    ),
    PagePart("flatness", "Flatness", (("Flatness of the members", flatness_bars),)),
    PagePart(
        "shift",
        "Corrupted and other data",
        (
            ("Under corruption", severity),
            ("Corruption errors", corruption_errors),
            ("The corruptions", corruptions),
            ("Telling other data apart", detection),
        ),
    ),
    PagePart("timing", "Where the time goes", (("Time of an update", step_time),)),
)


def _single(name: str, title: str, draw: Callable[[Section], Picture]) -> PagePart[Section]:
    return PagePart(name, title, ((title, draw),))


FOLDER_PARTS = (
    _single("differences", "Differences to the baselines", forest),
    _single("quality", "Accuracy against NLL", quality),
    _single("members", "How members differ against how good they are", members),
    _single("sizes", "Scores against the number of members", sizes_of_groups),
    _single("coverage", "Accuracy against coverage", coverage_of_groups),
    _single("reliability", "Reliability", reliability_of_groups),
    _single("embedding", "Members' predictions over training", embedding_of_groups),
    _single("flatness", "Flatness by group", flatness_of_groups),
)
