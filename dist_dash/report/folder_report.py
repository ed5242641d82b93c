"""The report of a folder of runs: a comparison, section by section, with its pictures beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_dash.comparison import tables as compared
from dist_dash.comparison.comparison import Comparison, load_comparison
from dist_dash.comparison.data import as_csv, as_json
from dist_dash.comparison.metrics import heading, number
from dist_dash.comparison.section import Group, Section
from dist_dash.comparison.selection import GROUPS
from dist_dash.comparison.verdict import verdict
from dist_dash.errors import BadInput
from dist_dash.report.draw import Shown, draw_all, remove_others
from dist_dash.report.folder_catalogue import FOLDER_PARTS, jobs_of
from dist_dash.report.page import name_of, page, relative, slug, write_page
from dist_dash.report.tables import Cell, Heading, Row, Table
from dist_dash.run_folder import read_json

OVERVIEW = (("ensemble.accuracy",), ("ensemble.cal_nll", "ensemble.nll"), ("diversity.disagreement",))
DATA = "comparison"


@dataclass(frozen=True)
class SectionPage:
    """What the page shows of a section; also an entry of the contents."""

    id: str
    title: str
    verdict: Sequence[str]
    notes: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class Entry:
    """Of the contents."""

    id: str
    title: str


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
    notes = _notes(path)
    parts = tuple(part for part in FOLDER_PARTS if part.name not in without)
    prefixes = [_prefix(index, section) for index, section in enumerate(comparison.sections, 1)]
    folder = path / "report"
    jobs = [
        job
        for prefix, section in zip(prefixes, comparison.sections, strict=True)
        for job in jobs_of(section, parts, prefix)
    ]
    drawn = iter(draw_all(jobs, folder))
    sections = [
        _section(prefix, section, drawn, len(parts))
        for prefix, section in zip(prefixes, comparison.sections, strict=True)
    ]
    write_page(folder / f"{DATA}.csv", as_csv(comparison))
    write_page(folder / f"{DATA}.json", json.dumps(as_json(comparison), indent=1, allow_nan=False))
    remove_others(folder, [DATA, *(shown.name for section in sections for shown in section.pictures)])
    first = [Entry("overview", "Overview")] if len(sections) > 1 else []
    content = page(
        "folder.html",
        title=comparison.title or f"Comparison of the runs in {name_of(path)}",
        about=_about(comparison),
        notes=comparison.notes,
        contents=[*first, *sections, Entry("limits", "Limits"), Entry("data", "Data and runs")],
        overview=_overview(comparison) if first else None,
        sections=sections,
        limits=[*_limits(comparison), *notes],
        runs=_runs(comparison, path),
        folder=relative(folder, output),
        data=DATA,
        command=f"dist-dash report {name_of(path)}",
    )
    write_page(output, content)


def _prefix(index: int, section: Section) -> str:
    return "-".join(part for part in (f"s{index}", slug(section.name)[:40].strip("-")) if part)


def _section(prefix: str, section: Section, drawn: Iterator[Shown], count: int) -> SectionPage:
    return SectionPage(
        id=prefix,
        title=section.name or "Comparison",
        verdict=verdict(section),
        notes=section.notes,
        tables=[_table(table) for table in compared.tables(section)],
        pictures=[next(drawn) for _ in range(count)],
    )


def _table(table: compared.Table) -> Table:
    rows = [Row(name, [_cell(cell) for cell in cells]) for name, cells in table.rows]
    return Table(table.title, [Heading(""), *map(Heading, table.headings)], rows, table.legend)


def _cell(cell: compared.Cell) -> Cell:
    below = f"± {cell.spread}" if cell.spread else f"[{cell.interval[0]}, {cell.interval[1]}]" if cell.interval else ""
    return Cell(f"{cell.value}{'*' * cell.marked}", below=below, bold=cell.bold, marked=cell.marked)


# -- words -------------------------------------------------------------------------------------------------------------


def _about(comparison: Comparison) -> str:
    sections = comparison.sections
    runs = [run for section in sections for group in section.groups for run in group.runs]
    names = dict.fromkeys(group.name for section in sections for group in section.groups)
    seeds = sorted({run.seed for run in runs})
    conditions = f" under {len(sections)} conditions" if len(sections) > 1 else ""
    samples = f", {runs[0].samples} samples" if runs[0].samples else ""
    return (
        f"{len(runs)} run{'s' * (len(runs) != 1)} of {len(names)} group{'s' * (len(names) != 1)}{conditions}, seeds "
        f"{', '.join(map(str, seeds))}. All scores are of the {runs[0].split} split{samples}. Better and worse are "
        "said only where the 95 % interval of the differences, paired by seed, excludes 0."
    )


def _limits(comparison: Comparison) -> list[str]:
    """What the comparison cannot show, whatever it found."""
    counts = sorted({len(group.runs) for section in comparison.sections for group in section.groups})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    found = [
        f"Each group has {seeds} seed{'s' * (counts != [1])}: intervals over so few are wide and rest on assumptions.",
        "Seeds change the training (initial weights, order, augmentation, label noise where there is some), not the "
        "samples that scores are taken on: the intervals tell nothing about other data.",
        "Every interval holds for itself. Of twenty comparisons that differ in nothing, one will look like a "
        "difference.",
    ]
    if any(metric.startswith("ensemble.cal_") for section in comparison.sections for metric in section.metrics):
        found.append(
            "Temperatures (cal_…) were fitted on halves of the evaluated split, each score taken on the other half."
        )
    return found


def _notes(path: Path) -> list[str]:
    """The sentences of `groups.json` that its writer wants read: how settings were chosen, what does not carry over."""
    if not (path / GROUPS).exists():
        return []
    content = read_json(path / GROUPS, "groups")
    notes = content.get("notes", []) if isinstance(content, dict) else []
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BadInput(f"groups: notes in {path / GROUPS} are wrong; they must be a list of texts")
    return notes


# -- tables ------------------------------------------------------------------------------------------------------------


def _overview(comparison: Comparison) -> Table:
    """Each group under each condition: the figures that decide, and what they cost."""
    names = dict.fromkeys(group.name for section in comparison.sections for group in section.groups)
    headings, rows = [Heading("")], {name: list[Cell]() for name in names}
    for section in comparison.sections:
        metrics = [m for choice in OVERVIEW if (m := next((m for m in choice if m in section.metrics), None))]
        headings += [Heading(f"{section.name}: {heading(metric)}") for metric in metrics]
        headings.append(Heading(f"{section.name}: step time"))
        groups = {group.name: group for group in section.groups}
        for name in names:
            rows[name] += _overview_cells(section, groups.get(name), metrics)
    legend = (
        "Mean ± standard deviation over seeds. Bold: the best of a column, only where the interval of its paired "
        "difference to the second best excludes 0; disagreement has no better. Step time: time of an update, in "
        "those of the first baseline.",
    )
    return Table(
        "All groups under all conditions", headings, [Row(name, cells) for name, cells in rows.items()], legend
    )


def _overview_cells(section: Section, group: Group | None, metrics: Sequence[str]) -> list[Cell]:
    if group is None:
        return [Cell("—")] * (len(metrics) + 1)
    cells = []
    for metric in metrics:
        summary, best = group.metrics.get(metric), section.best.get(metric)
        bold = best is not None and best.bold and best.group == group.name
        spread = f"± {number(metric, summary.sd)}" if summary is not None and summary.sd is not None else ""
        mean = summary.mean if summary is not None else None
        cells.append(Cell(number(metric, mean), mean, f"{group.name}|{metric}", spread, bold))
    time = section.relative_step_time(group)
    return [*cells, Cell("—" if time is None else f"{time:.2f}×", time)]


def _runs(comparison: Comparison, path: Path) -> Table:
    """Which runs were compared."""
    rows = []
    for section in comparison.sections:
        for group in section.groups:
            seeds = ", ".join(f"seed {run.seed}: {_inside(run.path, path)}" for run in group.runs)
            name = f"{section.name}: {group.name}" if section.name else group.name
            settings = ", ".join(f"{field} {value}" for field, value in group.settings.items())
            rows.append(Row(name, [Cell(settings or "—", words=True), Cell(seeds, words=True)]))
    headings = [
        Heading("group"),
        Heading("settings that differ within the section", words=True),
        Heading("runs", words=True),
    ]
    return Table("Runs", headings, rows)


def _inside(run: Path, folder: Path) -> str:
    return os.fsencode(os.path.relpath(run, folder)).decode("utf-8", "replace")
