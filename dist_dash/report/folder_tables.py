"""The tables of a comparison's page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dist_dash.comparison import tables as compared
from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.metric_names import NONE, better, heading, number
from dist_dash.comparison.section import Group, Section
from dist_dash.comparison.paired import Difference
from dist_dash.report.tables import Cell, Heading, Row, Table

DECIDING = (("ensemble.accuracy",), ("ensemble.cal_nll", "ensemble.nll"), ("ensemble.cal_ece", "ensemble.ece"))
DISAGREEMENT = "diversity.disagreement"


def deciding(section: Section) -> list[str]:
    """The figures that a reader looks at first, those that are known, and the disagreement of members."""
    choices = (*DECIDING, (DISAGREEMENT,))
    found = (next((metric for metric in choice if metric in section.metrics), None) for choice in choices)
    return [metric for metric in found if metric is not None]


def at_a_glance(section: Section) -> Table | None:
    """Each group against each baseline, in a word and a number; None where there is nothing to compare."""
    if len(section.groups) < 2:
        return None
    metrics = deciding(section)
    rows = []
    for group in section.groups:
        cells = []
        for baseline in section.baselines:
            own = section.differences.get((group.name, baseline), {})
            cells += [_in_a_word(metric, own[metric], baseline) if own else Cell(NONE) for metric in metrics]
        time = section.relative_step_time(group)
        rows.append(Row(group.name, [*cells, Cell(NONE if time is None else f"{time:.2f}×", time)]))
    headings = [Heading(""), *(Heading(heading(metric)) for _ in section.baselines for metric in metrics)]
    legend = (
        "Mean difference to the baseline, paired by seed; better, worse, more and less only where its 95 % interval "
        "excludes 0, and ? where no difference can be told. Accuracy in percentage points. Intervals: in the tables "
        "below.",
    )
    spans = [*((f"against {baseline}", len(metrics)) for baseline in section.baselines), ("cost", 1)]
    return Table("At a glance", [*headings, Heading("step time")], rows, legend, spans)


def _in_a_word(metric: str, difference: Difference, baseline: str) -> Cell:
    key = f"{metric} − {baseline}"
    if difference.mean is None:
        return Cell(NONE)
    told = number(metric, difference.mean, "+")
    if not difference.excludes_zero:
        return Cell("?", difference.mean, key, told)
    more, way = (difference.low or 0.0) > 0, better(metric)
    word = ("more" if more else "less") if way is None else "better" if more == (way == "higher") else "worse"
    return Cell(word, difference.mean, key, told, kind=word)


def of_section(section: Section) -> list[Table]:
    """The tables that the terminal shows as well."""
    return [_table(table) for table in compared.tables(section)]


def _table(table: compared.Table) -> Table:
    rows = [Row(name, [_cell(cell) for cell in cells]) for name, cells in table.rows]
    return Table(table.title, [Heading(""), *map(Heading, table.headings)], rows, table.legend)


def _cell(cell: compared.Cell) -> Cell:
    below = (
        f"±\N{NO-BREAK SPACE}{cell.spread}"
        if cell.spread
        else f"[{cell.interval[0]}, {cell.interval[1]}]"
        if cell.interval
        else ""
    )
    kind = "marked" if cell.marked else ""
    return Cell(f"{cell.value}{'*' * cell.marked}", below=below, bold=cell.bold, kind=kind)


def overview(comparison: Comparison) -> Table | None:
    """Each group under each condition: the figures that decide, and what they cost; None of one condition."""
    if len(comparison.sections) < 2:
        return None
    names = dict.fromkeys(group.name for section in comparison.sections for group in section.groups)
    headings, rows = [Heading("")], {name: list[Cell]() for name in names}
    spans = []
    for section in comparison.sections:
        metrics = [metric for metric in deciding(section) if "ece" not in metric]
        headings += [*(Heading(heading(metric)) for metric in metrics), Heading("step time")]
        spans.append((section.name, len(metrics) + 1))
        groups = {group.name: group for group in section.groups}
        for name in names:
            rows[name] += _figures(section, groups.get(name), metrics)
    legend = (
        "Mean ± standard deviation over seeds. Bold: the best of a column, only where the interval of its paired "
        "difference to the second best excludes 0; disagreement has no better. Step time: time of an update, in "
        "those of the first baseline.",
    )
    found = [Row(name, cells) for name, cells in rows.items()]
    return Table("All groups under all conditions", headings, found, legend, spans)


def _figures(section: Section, group: Group | None, metrics: Sequence[str]) -> list[Cell]:
    if group is None:
        return [Cell(NONE)] * (len(metrics) + 1)
    cells = []
    for metric in metrics:
        summary, best = group.metrics.get(metric), section.best.get(metric)
        bold = best is not None and best.bold and best.group == group.name
        spread = (
            f"±\N{NO-BREAK SPACE}{number(metric, summary.sd)}" if summary is not None and summary.sd is not None else ""
        )
        mean = summary.mean if summary is not None else None
        cells.append(Cell(number(metric, mean), mean, metric, spread, bold))
    time = section.relative_step_time(group)
    return [*cells, Cell(NONE if time is None else f"{time:.2f}×", time)]


def runs(comparison: Comparison, folder: Path) -> Table:
    """Which runs were compared, by their places in the folder."""
    rows = []
    for section in comparison.sections:
        for group in section.groups:
            seeds = ", ".join(f"seed {run.seed}: {_inside(run.path, folder)}" for run in group.runs)
            name = f"{section.name}: {group.name}" if section.name else group.name
            settings = ", ".join(f"{field} {value}" for field, value in group.settings.items())
            rows.append(Row(name, [Cell(settings or NONE, words=True), Cell(seeds, words=True)]))
    headings = [Heading("group"), *(Heading(text, words=True) for text in ("settings that differ", "runs"))]
    return Table("Runs", headings, rows)


def _inside(run: Path, folder: Path) -> str:
    return os.fsencode(os.path.relpath(run, folder)).decode("utf-8", "replace")
