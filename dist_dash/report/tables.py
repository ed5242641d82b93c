"""The tables of a page: cells with the text that is read and the number that it stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_dash.comparison.cells import Cell, CellTable, Heading, TableRow
from dist_dash.comparison.compared_run import NEITHER_BETTER
from dist_dash.comparison.cost import cost_of
from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.metric_names import DISAGREEMENT, DIVERSITY, NONE, QUALITY, deciding, finite, heading, number
from dist_dash.comparison.paired import Difference
from dist_dash.comparison.section import Group, Section
from dist_dash.comparison.verdict import in_a_word
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.metrics.table import temperature_remarks
from dist_dash.report.readings import kept_members
from dist_dash.report.words import CALIBRATED, DIFFERENCES, MEANINGS

# -- of a run ----------------------------------------------------------------------------------------------------------


def answers(run: FinishedRun) -> CellTable:
    """Every score of the ensemble, of each member and of the members' mean, as `evaluation.json` has them."""
    evaluation = run.evaluation
    members = [(f"member {n}", scores) for n, scores in zip(kept_members(run), evaluation["members"], strict=True)]
    rows = [("ensemble", "ensemble", evaluation["ensemble"], "main")]
    rows += [(f"members.{index}", name, scores, "") for index, (name, scores) in enumerate(members)]
    rows += [("member_mean", "member mean", evaluation["member_mean"], "last")]
    found = dict.fromkeys(name for _, _, scores, _ in rows for name in scores)
    known = (*QUALITY, *NEITHER_BETTER)
    names = [name for name in known if name in found] + [name for name in found if name not in known]
    return CellTable(
        f"Scores on the {evaluation.get('split')} split, {evaluation.get('samples')} samples",
        [Heading(""), *(Heading(heading(f"ensemble.{name}"), _meaning(name)) for name in names)],
        [TableRow(name, [_score(key, figure, scores) for figure in names], kind) for key, name, scores, kind in rows],
        _reading(evaluation, names),
    )


def _score(key: str, figure: str, scores: Mapping[str, Any]) -> Cell:
    value = finite(scores.get(figure))
    text = f"{value:g}" if figure == "clipped" and value is not None else number(f"ensemble.{figure}", value)
    return Cell(text, value, f"{key}.{figure}")


def _meaning(name: str) -> str:
    bare = name.removeprefix("cal_")
    return MEANINGS.get(bare, "") + (" (after temperature scaling)" if bare != name else "")


def _reading(evaluation: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What a reader of the table has to know."""
    bare = dict.fromkeys(name.removeprefix("cal_") for name in names)
    meanings = "; ".join(f"{name}: {MEANINGS[name]}" for name in bare if name in MEANINGS)
    found = [f"↑ higher is better, ↓ lower is better. {meanings[:1].upper()}{meanings[1:]}."]
    if any(name.startswith("cal_") for name in names):
        found.append(f"cal_…: {CALIBRATED}: no score is taken where its temperature was fitted.")
        if finite(evaluation["ensemble"].get("cal_nll")) is None:
            found.append("There are too few samples to fit a temperature.")
    found += temperature_remarks(dict(evaluation))
    if left_out := evaluation.get("left_out"):
        found.append(f"Left out, because their predictions are not finite: members {', '.join(map(str, left_out))}.")
    return found


def diversity(run: FinishedRun) -> CellTable | None:
    """How much the members differ, means over pairs; None of one member."""
    found = run.evaluation.get("diversity") or {}
    known = [name for name in DIVERSITY if finite(found.get(name)) is not None]
    if not known or len(run.evaluation["members"]) < 2:
        return None
    rows = []
    for name in known:
        value = finite(found[name])
        cell = Cell(number(f"diversity.{name}", value), value, f"diversity.{name}")
        rows.append(TableRow(name.replace("_", " "), [cell, Cell(DIFFERENCES[name], words=True)]))
    return CellTable(
        "How the members differ, mean over pairs",
        [Heading("measure"), Heading("value"), Heading("meaning", words=True)],
        rows,
    )


def cost(run: FinishedRun) -> CellTable:
    """What the run took, from its record."""
    found = cost_of(run.lines("train"), run.environment)
    lines = (
        ("time of an update", "step_seconds", 1000, "ms", "slowest member, median over the record"),
        ("of which waiting for members", "waiting", 100, "%", "median over the record, mean over members"),
        ("of which transfer between members", "transfer", 100, "%", "median over the record, mean over members"),
        (
            "forwards per update",
            "forwards",
            1,
            "",
            "counted, mean of all updates; a plain training step has 1",
        ),
        (
            "backwards per update",
            "backwards",
            1,
            "",
            "counted, mean of all updates; a plain training step has 1",
        ),
        (
            "peak memory of a process",
            "peak_memory_mib",
            1,
            "MiB",
            "of the device; on a CPU of the host, Python included",
        ),
        ("device-hours", "device_hours", 1, "", "devices × time of all updates"),
    )
    rows = []
    for name, field, unit, mark, meaning in lines:
        value = getattr(found, field)
        text = NONE if value is None else f"{_short(unit * value)} {mark}".strip()
        rows.append(TableRow(name, [Cell(text, value, f"cost.{field}"), Cell(meaning, words=True)]))
    return CellTable(
        "Cost of the run", [Heading(""), Heading("value"), Heading("how it was measured", words=True)], rows
    )


def _short(value: float) -> str:
    """Three significant digits or the whole number, without an exponent."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    digits = next((digits for digits, limit in ((1, 10), (2, 1), (3, 0.1)) if abs(value) >= limit), 5)
    return f"{value:.{digits}f}"


# -- of a comparison ---------------------------------------------------------------------------------------------------


def _first_looks(section: Section) -> list[str]:
    """The figures that a reader looks at first, those that are known, and the disagreement of members."""
    return [*deciding(section.metrics), *(metric for metric in (DISAGREEMENT,) if metric in section.metrics)]


def at_a_glance(section: Section) -> CellTable | None:
    """Each group against each baseline, in a word and a number; None where there is nothing to compare."""
    if len(section.groups) < 2:
        return None
    metrics = _first_looks(section)
    rows = []
    for group in section.groups:
        cells = []
        for baseline in section.baselines:
            own = section.differences.get((group.name, baseline), {})
            cells += [_compared(metric, own[metric], baseline) if own else Cell(NONE) for metric in metrics]
        time = section.relative_step_time(group)
        rows.append(TableRow(group.name, [*cells, Cell(NONE if time is None else f"{time:.2f}×", time)]))
    headings = [Heading(""), *(Heading(heading(metric)) for _ in section.baselines for metric in metrics)]
    legend = (
        "Mean difference to the baseline, paired by seed; better, worse, more and less only where its 95 % interval "
        "excludes 0, and ? where the difference is not significant. Accuracy and disagreement in percentage points. "
        "Intervals: in the tables below.",
    )
    spans = [*((f"against {baseline}", len(metrics)) for baseline in section.baselines), ("cost", 1)]
    return CellTable("At a glance", [*headings, Heading("step time")], rows, legend, spans)


def _compared(metric: str, difference: Difference, baseline: str) -> Cell:
    key = f"{metric} − {baseline}"
    if difference.mean is None:
        return Cell(NONE)
    amount = number(metric, difference.mean, "+")
    word = in_a_word(metric, difference) if difference.excludes_zero else "?"
    return Cell(word, difference.mean, key, beside=amount, kind=word.strip("?"))


def overview(comparison: Comparison) -> CellTable | None:
    """Each group under each condition: the figures that decide, and what they cost; None of one condition."""
    if len(comparison.sections) < 2:
        return None
    names = dict.fromkeys(group.name for section in comparison.sections for group in section.groups)
    headings, rows = [Heading("")], {name: list[Cell]() for name in names}
    spans = []
    for section in comparison.sections:
        metrics = [metric for metric in _first_looks(section) if "ece" not in metric]
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
    found = [TableRow(name, cells) for name, cells in rows.items()]
    return CellTable("All groups under all conditions", headings, found, legend, spans)


def _figures(section: Section, group: Group | None, metrics: Sequence[str]) -> list[Cell]:
    if group is None:
        return [Cell(NONE)] * (len(metrics) + 1)
    cells = []
    for metric in metrics:
        summary, best = group.metrics.get(metric), section.best.get(metric)
        bold = best is not None and best.bold and best.group == group.name
        spread = number(metric, summary.sd) if summary is not None and summary.sd is not None else ""
        mean = summary.mean if summary is not None else None
        cells.append(Cell(number(metric, mean), mean, metric, spread, bold=bold))
    time = section.relative_step_time(group)
    return [*cells, Cell(NONE if time is None else f"{time:.2f}×", time)]


def runs(comparison: Comparison, folder: Path) -> CellTable:
    """Which runs were compared, by their places in the folder."""
    rows = []
    for section in comparison.sections:
        for group in section.groups:
            seeds = ", ".join(f"seed {run.seed}: {_inside(run.path, folder)}" for run in group.runs)
            name = f"{section.name}: {group.name}" if section.name else group.name
            settings = ", ".join(f"{field} {value}" for field, value in group.settings.items())
            rows.append(TableRow(name, [Cell(settings or NONE, words=True), Cell(seeds, words=True)]))
    headings = [Heading("group"), *(Heading(text, words=True) for text in ("settings that differ", "runs"))]
    return CellTable("Runs", headings, rows)


def _inside(run: Path, folder: Path) -> str:
    return os.fsencode(os.path.relpath(run, folder)).decode("utf-8", "replace")
