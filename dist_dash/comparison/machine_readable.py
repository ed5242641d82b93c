"""A comparison for programs: everything as JSON, and as a CSV of one row per group, metric and baseline."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterator
from typing import Any

from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.metric_names import better, finite
from dist_dash.comparison.paired import LEVEL, RESAMPLES, Difference, Summary
from dist_dash.comparison.section import Best, Group, Section
from dist_dash.comparison.verdict import verdict

COLUMNS = (
    *("section", "group", "metric", "n", "mean", "sd", "median"),
    *("baseline", "pairs", "difference", "low", "high", "interval", "excludes_zero"),
)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, in types that JSON has; accuracies as shares of 1, losses in nats, times in seconds.

    `sections[…].differences[a][b][metric]` is a minus b, paired by seed, for all pairs of groups.
    """
    return {
        "title": comparison.title,
        "partial": comparison.partial,
        "notes": list(comparison.notes),
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "of": "the mean of differences paired by seed"},
        "sections": [_section(section) for section in comparison.sections],
    }


def as_csv(comparison: Comparison) -> str:
    """Long form: one row per section, group, metric and baseline.

    A baseline itself has no difference. What a run cost stands in rows of metrics `cost.…`; those of
    `cost.relative_step_time` and `equivalent.members` hold a figure of the whole group, as its median.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for section in comparison.sections:
        for group in section.groups:
            about = {"section": section.name, "group": group.name}
            writer.writerows(about | row for row in (*_metric_rows(section, group), *_cost_rows(section, group)))
    return text.getvalue()


# -- JSON --------------------------------------------------------------------------------------------------------------


def _section(section: Section) -> dict[str, Any]:
    differences: dict[str, dict[str, Any]] = {}
    for (one, other), by_metric in section.differences.items():
        values = {metric: _difference(difference) for metric, difference in by_metric.items()}
        differences.setdefault(one, {})[other] = values
    return {
        "name": section.name,
        "notes": list(section.notes),
        "baselines": list(section.baselines),
        "metrics": {metric: {"better": better(metric)} for metric in section.metrics},
        "groups": [_group(section, group) for group in section.groups],
        "differences": differences,
        "best": {metric: _best(best) for metric, best in section.best.items()},
        "verdict": verdict(section),
        "largest_plain": section.largest_plain,
    }


def _group(section: Section, group: Group) -> dict[str, Any]:
    runs = [{"path": str(run.path), "seed": run.seed, "cost": dataclasses.asdict(run.cost)} for run in group.runs]
    return {
        "name": group.name,
        "method": group.method,
        "settings": dict(group.settings),
        "seeds": group.seeds,
        "runs": runs,
        "metrics": {metric: _summary(summary) for metric, summary in group.metrics.items()},
        "cost": {**dataclasses.asdict(group.cost), "relative_step_time": section.relative_step_time(group)},
        "equivalent": finite(group.equivalent),
    }


def _summary(summary: Summary) -> dict[str, Any]:
    values = {str(seed): value for seed, value in summary.values.items()}
    return {"n": summary.n, "mean": summary.mean, "sd": summary.sd, "values": values}


def _difference(difference: Difference) -> dict[str, Any]:
    return {**dataclasses.asdict(difference), "excludes_zero": difference.excludes_zero}


def _best(best: Best) -> dict[str, Any]:
    return {"group": best.group, "runner_up": best.runner_up, "lead": _difference(best.lead), "bold": best.bold}


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _metric_rows(section: Section, group: Group) -> Iterator[dict[str, Any]]:
    for metric, summary in group.metrics.items():
        row = {"metric": metric, "n": summary.n, "mean": summary.mean, "sd": _known(summary.sd)}
        row["median"] = statistics.median(summary.values.values())
        for baseline in section.baselines:
            found = section.differences[group.name, baseline][metric] if baseline != group.name else None
            if found is None:
                yield {**row, "baseline": baseline}
                continue
            values = {"pairs": found.n, "difference": _known(found.mean), "interval": _known(found.method)}
            ends = {"low": _known(found.low), "high": _known(found.high), "excludes_zero": found.excludes_zero}
            yield {**row, "baseline": baseline, **values, **ends}


def _cost_rows(section: Section, group: Group) -> Iterator[dict[str, Any]]:
    for name, median in dataclasses.asdict(group.cost).items():
        values = [value for run in group.runs if (value := getattr(run.cost, name)) is not None]
        if values:
            sd = statistics.stdev(values) if len(values) > 1 else ""
            mean = statistics.fmean(values)
            yield {"metric": f"cost.{name}", "n": len(values), "mean": mean, "sd": sd, "median": _known(median)}
    for metric, value in (
        ("cost.relative_step_time", section.relative_step_time(group)),
        ("equivalent.members", group.equivalent),
    ):
        if value is not None:
            yield {"metric": metric, "n": len(group.runs), "median": value, "baseline": section.baselines[0]}


def _known(value: Any) -> Any:
    return "" if value is None else value
