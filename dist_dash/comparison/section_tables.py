"""The tables of a section: quality, differences to each baseline, members and how they differ, cost."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.comparison.cells import Cell, CellTable, Heading, TableRow
from dist_dash.comparison.equivalent import CALIBRATED, metric_of
from dist_dash.comparison.metric_names import DIVERSITY, NONE, QUALITY, heading, number
from dist_dash.comparison.paired import Difference
from dist_dash.comparison.section import Group, Section

OF_MEMBERS = ("accuracy", "nll", "brier", "ece", "cal_nll", "cal_ece")
"""The scores of the members' mean that the table of members shows; files hold all of them."""


INTERVAL = (
    "95 % intervals of the mean of the differences, paired by seed: bootstrap over seeds with Hesterberg's expanded "
    "percentiles, Student's where there are fewer than 5; each holds for itself, not for all of them at once."
)
EQUIVALENT = (
    "Equivalent: members that a plain deep ensemble needs for the same NLL {how}, by that of subsets of its members; "
    "at least one."
)
BOLD = "Bold: the best of a column, only where the interval of its paired difference to the second best excludes 0."


def tables(section: Section) -> list[CellTable]:
    """All of them, in the order in which they are shown."""
    quality, members = _shown(section, "ensemble", QUALITY), _shown(section, "member_mean", OF_MEMBERS)
    diversity = _shown(section, "diversity", DIVERSITY)
    found = [_figures(section, "Quality of the ensemble", quality, "")]
    if len(section.groups) > 1:
        found += [_against(section, baseline, quality + diversity[:2]) for baseline in section.baselines]
    if members or diversity:
        how = "Scores are means over the members; how members differ has no better: never bold."
        found.append(_figures(section, "Members and how they differ", members + diversity, how))
    return [*found, _cost(section)]


def _shown(section: Section, part: str, figures: Sequence[str]) -> list[str]:
    return [metric for figure in figures if (metric := f"{part}.{figure}") in section.metrics]


def _figures(section: Section, title: str, metrics: Sequence[str], how: str) -> CellTable:
    rows = []
    for group in section.groups:
        cells = [Cell(str(len(group.runs)))]
        for metric in metrics:
            summary, best = group.metrics.get(metric), section.best.get(metric)
            bold = best is not None and best.bold and best.group == group.name
            spread = number(metric, summary.sd) if summary is not None and summary.sd is not None else ""
            cells.append(Cell(number(metric, summary.mean if summary else None), spread=spread, bold=bold))
        rows.append(TableRow(group.name, cells))
    legend = ("Mean ± standard deviation (n − 1) over n seeds. ↑ higher is better, ↓ lower is better.", BOLD)
    headings = _headings("n", *(_heading(metric) for metric in metrics))
    return CellTable(title, headings, rows, (*legend, how) if how else legend)


def _against(section: Section, baseline: str, metrics: Sequence[str]) -> CellTable:
    rows = []
    for group in section.groups:
        if group.name != baseline:
            differences = section.differences[group.name, baseline]
            cells = [_difference(metric, differences[metric]) for metric in metrics]
            pairs = set(group.seeds) & set(section.group(baseline).seeds)
            rows.append(TableRow(group.name, [Cell(str(len(pairs))), *cells]))
    legend = (f"Difference to {baseline} and its interval; *: the interval excludes 0.", INTERVAL)
    headings = _headings("pairs", *(_heading(metric) for metric in metrics))
    return CellTable(f"Difference to {baseline}", headings, rows, legend)


def _difference(metric: str, difference: Difference) -> Cell:
    low, high = (number(metric, end, "+") for end in (difference.low, difference.high))
    interval = (low, high) if difference.low is not None else None
    return Cell(number(metric, difference.mean, "+"), interval=interval, kind="marked" * difference.excludes_zero)


def _headings(*texts: str) -> list[Heading]:
    return [Heading(""), *map(Heading, texts)]


def _heading(metric: str) -> str:
    return heading(metric).replace("member_mean.", "")


def _cost(section: Section) -> CellTable:
    baseline = section.baselines[0]
    rows = []
    for group in section.groups:
        cost = group.cost
        cells = [
            _number(section.relative_step_time(group), 1, 2, "×"),
            _number(cost.step_seconds, 1000, 2),
            _number(cost.forwards, 1, 2),
            _number(cost.backwards, 1, 2),
            _number(cost.peak_memory_mib, 1, 0),
            _number(cost.device_hours, 1, 4),
            _number(cost.waiting, 100, 1),
            _number(cost.transfer, 100, 1),
        ]
        rows.append(TableRow(group.name, cells))
    headings = ["step time", "step ms", "forwards", "backwards", "peak MiB", "device-hours", "waiting %", "transfer %"]
    legend = [
        f"Medians over runs. Step time: of an update of the slowest member, in those of {baseline}. Device-hours: of "
        "all updates of one run. Peak: most that one process held (on CPU all of it, Python and torch included)."
    ]
    if section.largest_plain is not None:
        headings.append("equivalent")
        rows = [TableRow(row.name, [*row.cells, _equivalent(section, section.group(row.name))]) for row in rows]
        how = "after temperature scaling" if metric_of(section) == CALIBRATED else "without temperature scaling"
        legend.append(EQUIVALENT.format(how=how))
    return CellTable("Cost", _headings(*headings), rows, legend)


def _equivalent(section: Section, group: Group) -> Cell:
    if group.equivalent is None and metric_of(section) in group.metrics:
        return Cell(f"> {section.largest_plain}")
    return _number(group.equivalent, 1, 2)


def _number(value: float | None, unit: float, digits: int, after: str = "") -> Cell:
    return Cell(NONE if value is None else f"{unit * value:.{digits}f}{after}")
