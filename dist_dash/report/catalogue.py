"""Every picture that the report of a run can show, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.coverage import coverage
from dist_dash.report.directions import ascent_directions
from dist_dash.report.draw import Job
from dist_dash.report.embedding import embedding
from dist_dash.report.flatness_bars import flatness_bars
from dist_dash.report.landscape import loss_plane, loss_within, segments
from dist_dash.report.learning import learning_curves
from dist_dash.report.matrices import pairwise_matrices
from dist_dash.report.picture import Picture
from dist_dash.report.reliability import reliability_diagrams
from dist_dash.report.shift import corruptions, detection, severity
from dist_dash.report.sizes import sizes
from dist_dash.report.timing import step_time


@dataclass(frozen=True)
class Part:
    """A section of the page.

    Args:
        name: by which `--without` leaves it out.
        title: heading.
        pictures: title where it cannot be drawn, and what draws it.
    """

    name: str
    title: str
    pictures: tuple[tuple[str, Callable[[FinishedRun], Picture]], ...]


PARTS = (
    Part("learning", "Learning", (("Learning curves", learning_curves),)),
    Part("reliability", "Can the confidence be believed?", (("Reliability", reliability_diagrams),)),
    Part("coverage", "Does confidence tell right from wrong?", (("Accuracy against coverage", coverage),)),
    Part("matrices", "Do the members differ?", (("How each pair of members differs", pairwise_matrices),)),
    Part("embedding", "Members over training", (("Members' predictions over training", embedding),)),
    Part("sizes", "What does each member add?", (("Scores against the number of members", sizes),)),
    Part("directions", "Where do the members ascend?", (("Ascent directions", ascent_directions),)),
    Part(
        "landscape",
        "The loss between and around the members",
        (
            ("Loss on the plane through three members", loss_plane),
            ("Loss along the segments between members", segments),
            ("Loss within ρ of each member", loss_within),
        ),
    ),
    Part("flatness", "Flatness", (("Flatness of the members", flatness_bars),)),
    Part(
        "shift",
        "Corrupted and other data",
        (("Under corruption", severity), ("The corruptions", corruptions), ("Telling other data apart", detection)),
    ),
    Part("timing", "Where the time goes", (("Time of an update", step_time),)),
)


def jobs_of(part: Part, run: Path) -> list[Job]:
    """What is to be drawn for a part."""
    return [Job(title, draw_of_run, (draw, run)) for title, draw in part.pictures]


def draw_of_run(draw: Callable[[FinishedRun], Picture], run: Path) -> Picture:
    """A picture of the run in a folder: what a process is sent must be small."""
    return draw(FinishedRun(run))
