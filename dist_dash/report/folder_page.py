"""The report of a folder of runs: a comparison, section by section, with its pictures beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_dash.comparison.cells import CellTable
from dist_dash.comparison.grouping import load_comparison
from dist_dash.comparison.machine_readable import as_csv, as_json
from dist_dash.comparison.section import Section
from dist_dash.comparison.section_tables import tables
from dist_dash.comparison.settings import slug
from dist_dash.report.catalogue import FOLDER_PARTS
from dist_dash.report.draw import KINDS, DrawnPicture, draw_all, processes_for, remove_others
from dist_dash.report.html import name_of, page, relative, write_page
from dist_dash.report.tables import at_a_glance, overview, runs
from dist_dash.report.words import about, glossary, limits, sentences
from dist_dash.runs.folder import PICTURES, RunFolder

DATA = "comparison"


@dataclass(frozen=True)
class FolderPart:
    """What the page shows of a section; also an entry of the contents. The picture `answer` comes before all tables."""

    id: str
    title: str
    verdict: Sequence[str] = ()
    folded: Sequence[str] = ()
    notes: Sequence[str] = ()
    glance: CellTable | None = None
    tables: Sequence[CellTable] = ()
    answer: DrawnPicture | None = None
    other_pictures: Sequence[DrawnPicture] = ()


def report_of_folder(
    path: Path,
    output: Path,
    without: Collection[str] = (),
    partial: bool = False,
    baselines: Sequence[str] = (),
    to_keep: bool = False,
) -> None:
    """Write the page, and its pictures and data into `FOLDER/report/`.

    Args:
        path: the folder.
        output: the page.
        without: names of parts that are left out.
        partial: go on without the runs that are named but not finished.
        baselines: names of groups that the others are compared with.
        to_keep: write nothing twice, and all beside the page: pictures as PNG only, the data as CSV only.

    Raises:
        BadInput: the runs cannot be compared.
        OSError: something cannot be written; there is no new page then.
    """
    comparison = load_comparison([path], partial, baselines)
    parts = [part for part in FOLDER_PARTS if part.name not in without]
    prefixed = {_prefix(index, section): section for index, section in enumerate(comparison.sections, 1)}
    folder = (output.parent if to_keep else path) / PICTURES
    jobs = [job for prefix, section in prefixed.items() for part in parts for job in part.jobs(section, prefix)]
    every = (run for section in comparison.sections for group in section.groups for run in group.runs)
    predictions = (RunFolder(run.path).predictions for run in every)
    kinds = tuple(kind for kind in KINDS if kind != "svg" or not to_keep)
    drawn = iter(draw_all(jobs, folder, processes_for(predictions), kinds))
    sections = [_part(prefix, section, drawn, len(parts)) for prefix, section in prefixed.items()]
    data = [output.with_name(f"{DATA}.csv")] if to_keep else [folder / f"{DATA}.csv", folder / f"{DATA}.json"]
    write_page(data[0], as_csv(comparison))
    if not to_keep:
        write_page(data[1], json.dumps(as_json(comparison), indent=1, allow_nan=False))
    every_picture = (one for part in sections for one in (part.answer, *part.other_pictures) if one is not None)
    files = (file for picture in every_picture for file in picture.files)
    remove_others(folder, [*(file.name for file in data if not to_keep), *files])
    over_all = overview(comparison)
    first = [FolderPart("overview", "Overview")] if over_all else []
    last = [FolderPart("limits", "Limits"), FolderPart("data", "Data and runs")]
    content = page(
        "folder.html",
        title=comparison.title or f"Comparison of the runs in {name_of(path)}",
        about=about(comparison),
        notes=comparison.notes,
        contents=[*first, *sections, *last],
        glossary=glossary(comparison),
        overview=over_all,
        sections=sections,
        limits=[*limits(comparison), *comparison.remarks],
        runs=runs(comparison, path),
        folder=relative(folder, output),
        data={file.name: relative(file, output) for file in data},
        command=f"dist-dash report {shlex.quote(name_of(path))}",
    )
    write_page(output, content)


def _prefix(index: int, section: Section) -> str:
    return "-".join(part for part in (f"s{index}", slug(section.name)[:40].strip("-")) if part)


def _part(prefix: str, section: Section, drawn: Iterator[DrawnPicture], count: int) -> FolderPart:
    shown, folded = sentences(section)
    pictures = [next(drawn) for _ in range(count)]
    answer = next((picture for picture in pictures if not picture.why_not), None)
    return FolderPart(
        id=prefix,
        title=section.name or "Comparison",
        verdict=shown,
        folded=folded,
        notes=section.notes,
        glance=at_a_glance(section),
        tables=tables(section),
        answer=answer,
        other_pictures=[picture for picture in pictures if picture is not answer],
    )
