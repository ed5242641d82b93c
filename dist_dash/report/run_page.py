"""The report of one run: its page, and its pictures beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.ensembles.trained_data import NOT_COMPARED
from dist_dash.report.catalogue import PARTS
from dist_dash.report.draw import DrawnPicture, draw_all, processes_for, remove_others
from dist_dash.report.html import name_of, page, relative, write_page
from dist_dash.report.readings import check_evaluation
from dist_dash.report.tables import answers, cost, diversity
from dist_dash.report.words import what_came_of_it, what_was_trained
from dist_dash.runs.folder import PICTURES
from dist_dash.runs.record import say


@dataclass(frozen=True)
class RunPart:
    """A part of the page with what is shown in it; also an entry of the contents."""

    id: str
    title: str
    pictures: Sequence[DrawnPicture] = ()

    @property
    def why_not(self) -> str:
        """What all its pictures lack, where none can be drawn and all say the same."""
        reasons = {picture.why_not for picture in self.pictures}
        return reasons.pop() if len(reasons) == 1 else ""


def report_of_run(path: Path, output: Path, without: Collection[str], allow_code: Collection[str] = ()) -> None:
    """Write the page, and its pictures into `RUN/report/`.

    Args:
        path: the run.
        output: the page.
        without: names of parts that are left out.
        allow_code: see `load_ensemble`; without it, pictures that need other code are not drawn.

    Raises:
        BadInput: the run is not finished, or its files hold something else than they should.
        OSError: something cannot be written; there is no new page then.
    """
    run = FinishedRun(path, allow_code)
    check_evaluation(run)
    if run.trained_on is None:
        say(NOT_COMPARED)
    # All that can be refused is refused before the first picture is drawn.
    values = {
        "trained": " ".join(what_was_trained(run)),
        "outcome": what_came_of_it(run),
        "answers": answers(run),
        "diversity": diversity(run),
        "cost": cost(run),
    }
    wanted = [part for part in PARTS if part.name not in without]
    folder = path / PICTURES
    # A run that nothing has been read of yet: what a process is sent must be small.
    jobs = [job for part in wanted for job in part.jobs(FinishedRun(path, allow_code))]
    drawn = iter(draw_all(jobs, folder, processes_for([run.folder.predictions])))
    sections = [RunPart(part.name, part.title, [next(drawn) for _ in part.pictures]) for part in wanted]
    remove_others(folder, [file for section in sections for picture in section.pictures for file in picture.files])
    first = [RunPart("answer", "The answer"), RunPart("diversity", "Diversity"), RunPart("cost", "Cost")]
    name = shlex.quote(name_of(path))
    content = page(
        "run.html",
        title=f"Report of the run {name_of(path)}",
        contents=[*first, *sections, RunPart("reproduce", "Reproduce it")],
        sections=sections,
        folder=relative(folder, output),
        commands=f"dist-dash train --config recipe.yaml --run {name}\ndist-dash report {name}",
        recipe=run.folder.recipe.read_text(errors="replace"),
        environment=json.dumps(run.environment, indent=1, ensure_ascii=False),
        **values,
    )
    write_page(output, content)
