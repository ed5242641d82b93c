"""The report of a folder of runs: a comparison, section by section, with its pictures beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_dash.comparison.grouping import load_comparison
from dist_dash.comparison.machine_readable import as_csv, as_json
from dist_dash.comparison.section import Section
from dist_dash.report.draw import Shown, draw_all, processes_for, remove_others
from dist_dash.report.folder_catalogue import FOLDER_PARTS, jobs_of
from dist_dash.report.folder_tables import at_a_glance, of_section, overview, runs
from dist_dash.report.folder_words import about, glossary, limits, notes_of, sentences
from dist_dash.report.page import name_of, page, relative, slug, write_page
from dist_dash.report.tables import Table
from dist_dash.runs.folder import PICTURES, RunFolder

DATA = "comparison"


@dataclass(frozen=True)
class SectionPage:
    """What the page shows of a section; also an entry of the contents."""

    id: str
    title: str
    verdict: Sequence[str] = ()
    folded: Sequence[str] = ()
    notes: Sequence[str] = ()
    glance: Table | None = None
    tables: Sequence[Table] = ()
    pictures: Sequence[Shown] = ()


def report_of_folder(
    path: Path, output: Path, without: Collection[str], partial: bool, baselines: Sequence[str]
) -> None:
    """Write the page, and its pictures and data into `FOLDER/report/`.

    Args:
        path: the folder.
        output: the page.
        without: names of parts that are left out.
        partial: go on without the runs that are named but not finished.
        baselines: names of groups that the others are compared with.

    Raises:
        BadInput: the runs cannot be compared.
        OSError: something cannot be written; there is no new page then.
    """
    comparison = load_comparison([path], partial, baselines)
    notes = notes_of(path)
    parts = tuple(part for part in FOLDER_PARTS if part.name not in without)
    prefixed = {_prefix(index, section): section for index, section in enumerate(comparison.sections, 1)}
    folder = path / PICTURES
    jobs = [job for prefix, section in prefixed.items() for job in jobs_of(section, parts, prefix)]
    every = (run for section in comparison.sections for group in section.groups for run in group.runs)
    predictions = (RunFolder(run.path).predictions for run in every)
    drawn = iter(draw_all(jobs, folder, processes_for(predictions)))
    sections = [_section(prefix, section, drawn, len(parts)) for prefix, section in prefixed.items()]
    write_page(folder / f"{DATA}.csv", as_csv(comparison))
    write_page(folder / f"{DATA}.json", json.dumps(as_json(comparison), indent=1, allow_nan=False))
    remove_others(folder, [DATA, *(shown.name for section in sections for shown in section.pictures)])
    over_all = overview(comparison)
    first = [SectionPage("overview", "Overview")] if over_all else []
    last = [SectionPage("limits", "Limits"), SectionPage("data", "Data and runs")]
    content = page(
        "folder.html",
        title=comparison.title or f"Comparison of the runs in {name_of(path)}",
        about=about(comparison),
        notes=comparison.notes,
        contents=[*first, *sections, *last],
        glossary=glossary(comparison),
        overview=over_all,
        sections=sections,
        limits=[*limits(comparison), *notes],
        runs=runs(comparison, path),
        folder=relative(folder, output),
        data=DATA,
        command=f"dist-dash report {shlex.quote(name_of(path))}",
    )
    write_page(output, content)


def _prefix(index: int, section: Section) -> str:
    return "-".join(part for part in (f"s{index}", slug(section.name)[:40].strip("-")) if part)


def _section(prefix: str, section: Section, drawn: Iterator[Shown], count: int) -> SectionPage:
    shown, folded = sentences(section)
    return SectionPage(
        id=prefix,
        title=section.name or "Comparison",
        verdict=shown,
        folded=folded,
        notes=section.notes,
        glance=at_a_glance(section),
        tables=of_section(section),
        pictures=[next(drawn) for _ in range(count)],
    )
