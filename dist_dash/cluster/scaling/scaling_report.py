"""The report of a scaling study: a table for the terminal, `scaling.csv`, `scaling.json`, the plot; a plan's plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dist_dash.cluster.scaling.grid import Grid, ScalingRow, Spread
from dist_dash.cluster.scaling.step_model import Term
from dist_dash.files import replacing, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILES = ("scaling.csv", "scaling.json", "scaling.png", "scaling.svg")
TITLES = {
    "weak": "weak scaling: constant batch per rank",
    "strong": "strong scaling: constant batch per member, shared by its replicas",
}
LEGEND = (
    "First lines: medians over the updates of all repeats; below: 10–90 % of those updates, of the efficiency what the "
    "repeats' medians allow. Repeats: their medians' range."
)


def values_of(row: ScalingRow) -> dict[str, Any]:
    """The values of a row by name: seconds, shares of 1, samples per second; None where there is no efficiency."""
    point, (median, low, high) = row.point, row.efficiency or (None, None, None)
    found: dict[str, Any] = {
        "scaling": row.kind,
        "members": point.members,
        "replicas": point.replicas,
        "ranks": point.ranks,
        "batch_per_rank": point.batch,
        "repeats": row.repeats,
        "updates": row.updates,
        "efficiency": median,
        "efficiency_low": low,
        "efficiency_high": high,
        **({} if row.foreseen is None else {"foreseen_seconds": row.foreseen}),
    }
    for name, values in row.measures.items():
        found |= {name: values.median, f"{name}_p10": values.p10, f"{name}_p90": values.p90}
        found |= {f"{name}_repeats_low": values.least, f"{name}_repeats_high": values.most}
    return found


def write(folder: Path, grid: Grid, rows: Sequence[ScalingRow], facts: dict[str, Any]) -> dict[str, Any]:
    """Write all `FILES`; returns the content of `scaling.json`.

    Args:
        folder: of the study.
        grid: that was requested.
        rows: at least one.
        facts: further content of `scaling.json`: settings, device, versions, date, notes.
    """
    flattened = [values_of(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flattened[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flattened)
    write_atomically(folder / "scaling.csv", text.getvalue())
    content = {**facts, "rows": flattened}
    write_atomically(folder / "scaling.json", json.dumps(content, indent=1))
    figure = plot(grid, rows, str(facts.get("title", "")))
    for kind in ("png", "svg"):
        save(figure, folder / f"scaling.{kind}")
    return content


def save(figure: Figure, file: Path) -> None:
    """Write a figure in the format of the file's ending."""
    with replacing(file) as path:
        figure.savefig(path, format=file.suffix[1:], dpi=150)


# -- the table ---------------------------------------------------------------------------------------------------------


def table(rows: Sequence[ScalingRow], repeats: int, notes: Sequence[str]) -> Group:
    """For the terminal: a part per kind of scaling, two lines per point, then the notes.

    Args:
        rows: of the study.
        repeats: runs per point that were requested.
        notes: for the reader.
    """
    parts: list[Any] = []
    for kind, own in groupby(rows, lambda row: row.kind):
        part = Table(title=TITLES[kind], title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
        part.add_column("members ×\nreplicas", justify="center", no_wrap=True)
        for title in ("batch per\nrank", "step\nms", "repeats\nms", "efficiency\n", "waiting\n%", "transfer\n%"):
            part.add_column(title, justify="right", no_wrap=True)
        part.add_column("samples/s\nof all", justify="right", no_wrap=True)
        rows_of_kind = [*own]
        foreseen = any(row.foreseen for row in rows_of_kind)
        if foreseen:
            part.add_column("foreseen\nms", justify="right", no_wrap=True)
        for row in rows_of_kind:
            part.add_row(*_cells(row, repeats), *([_foreseen(row)] if foreseen else []))
        parts.append(part)
    return Group(*parts, *(Text(note) for note in (LEGEND, *notes)))


def _cells(row: ScalingRow, repeats: int) -> list[str]:
    measures = row.measures
    step = measures["step_seconds"]
    came = "" if row.repeats == repeats else f"{row.repeats} of {repeats}"
    efficiency = "–\n"
    if row.efficiency is not None:
        median, low, high = row.efficiency
        efficiency = f"{median:.2f}\n" + (f"{low:.2f}–{high:.2f}" if (low, high) != (median, median) else "")
    return [
        f"{row.point.members} × {row.point.replicas}\n",
        f"{row.point.batch}\n",
        _two_lines(step, 1000),
        f"{_range(1000 * step.least, 1000 * step.most)}\n{came}",
        efficiency,
        _two_lines(measures["waiting_share"], 100),
        _two_lines(measures["transfer_share"], 100),
        _two_lines(measures["samples_per_second"], 1),
    ]


def _foreseen(row: ScalingRow) -> str:
    if row.foreseen is None:
        return "–\n"
    off = row.foreseen / row.measures["step_seconds"].median - 1
    return f"{_short(1000 * row.foreseen)}\n{100 * off:+.0f} %"


def _two_lines(values: Spread, unit: float) -> str:
    return f"{_short(unit * values.median)}\n{_range(unit * values.p10, unit * values.p90)}"


def _range(low: float, high: float) -> str:
    return "–".join(dict.fromkeys([_short(low), _short(high)]))


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = next((digits for digits, limit in enumerate((100, 10, 1)) if abs(value) >= limit), 2)
    return f"{value:.{digits}f}"


# -- the plot ----------------------------------------------------------------------------------------------------------


def plot(grid: Grid, rows: Sequence[ScalingRow], title: str) -> Figure:
    """Step time and efficiency against ranks, and the shares of waiting and transfer in the step time."""
    from matplotlib.figure import Figure

    bars = list(dict.fromkeys(row.point for row in rows))
    figure = Figure(figsize=(16 + max(0, len(bars) - 12) * 0.3, 5), layout="constrained")
    times, efficiencies, shares = figure.subplots(1, 3, width_ratios=[1, 1, max(1.0, len(bars) / 12)])
    series = _series(rows)
    for index, (label, own) in enumerate(series.items()):
        # Points of several series have the same ranks: they are drawn beside each other.
        aside = 1.0 + 0.03 * (index - (len(series) - 1) / 2)
        steps = [row.measures["step_seconds"] for row in own]
        spreads = [(1000 * s.p10, 1000 * s.median, 1000 * s.p90) for s in steps]
        style = {"color": f"C{index % 10}", "marker": "osD^vP*X"[index % 8], "capsize": 3}
        style["linestyle"] = "-" if own[0].kind == "weak" else "--"
        _line(times, [row.point.ranks * aside for row in own], spreads, label=label, **style)
        if foreseen := [(row.point.ranks * aside, 1000 * row.foreseen) for row in own if row.foreseen]:
            times.plot(*zip(*foreseen, strict=True), color=style["color"], linestyle=":", label=f"{label}: foreseen")
        scaled = [row for row in own if row.efficiency is not None]
        bounds = [(low, median, high) for row in scaled for median, low, high in [row.efficiency or (0, 0, 0)]]
        _line(efficiencies, [row.point.ranks * aside for row in scaled], bounds, **style)
    efficiencies.axhline(1.0, color="grey", linewidth=1, linestyle=":", label="ideal")
    efficiencies.set(title="Efficiency", ylabel="1 = ideal (bars: what the repeats' medians allow)")
    times.set(title="Time of an update", ylabel="ms (bars: 10–90 % of the updates)")
    for axes in (times, efficiencies):
        _over_ranks(axes, sorted({point.ranks for point in grid.points()}))
    _shares(shares, rows)
    figure.suptitle(title, fontsize="medium")
    return figure


def _series(rows: Sequence[ScalingRow]) -> dict[str, list[ScalingRow]]:
    """The rows that a line connects: weak scaling over the members, strong scaling over the replicas."""
    found: dict[str, list[ScalingRow]] = {}
    for row in rows:
        kept, name = (row.point.replicas, "replica") if row.kind == "weak" else (row.point.members, "member")
        found.setdefault(f"{row.kind}, {kept} {name}{'s'[: kept != 1]}", []).append(row)
    return found


def _line(axes: Axes, x: list[float], spreads: list[tuple[float, float, float]], **style: Any) -> None:
    """Medians with error bars."""
    middle = [median for _, median, _ in spreads]
    below = [max(0.0, median - low) for low, median, _ in spreads]
    above = [max(0.0, high - median) for _, median, high in spreads]
    axes.errorbar(x, middle, yerr=[below, above], **style)


def _over_ranks(axes: Axes, ticks: Sequence[int]) -> None:
    """Ranks to the right, from 0 upwards."""
    axes.set_ylim(bottom=0)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("ranks = members × replicas")
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _shares(axes: Axes, rows: Sequence[ScalingRow]) -> None:
    """One bar per point: waiting, and transfer on top."""
    points = {row.point: row.measures for row in sorted(rows, key=lambda row: row.point)}
    labels = [f"{p.members}×{p.replicas}\nb{p.batch}" for p in points]
    waiting, transfer = (
        [100 * m[name].median for m in points.values()] for name in ("waiting_share", "transfer_share")
    )
    spreads = [m["waiting_share"] for m in points.values()]
    ends = [[100 * (s.median - s.p10) for s in spreads], [100 * (s.p90 - s.median) for s in spreads]]
    parts = {"waiting for members (bars: 10–90 %)": waiting, "transfer between members": transfer}
    _stacked(axes, labels, parts, ["C1", "C0"])
    axes.errorbar(labels, waiting, yerr=ends, capsize=3, color="black", linestyle="none")
    top = max(max(w + t, w + above) for w, t, above in zip(waiting, transfer, ends[1], strict=True))
    axes.set(title="Share of the update", ylabel="% (medians)", xlabel="members × replicas, batch per rank")
    axes.set_ylim(0, max(1.0, 1.25 * top))


def _stacked(axes: Axes, labels: Sequence[str], parts: Mapping[str, Sequence[float]], colours: Sequence[str]) -> None:
    """One bar per label, of parts on top of each other."""
    bottom = [0.0] * len(labels)
    for (name, values), colour in zip(parts.items(), colours, strict=True):
        axes.bar(labels, values, bottom=bottom, color=colour, label=name)
        bottom = [b + v for b, v in zip(bottom, values, strict=True)]
    axes.tick_params(axis="x", labelsize="small")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small")


def draw_plan(
    title: str, stacks: Mapping[str, Sequence[Term]], lines: Mapping[str, Mapping[int, float]], least: float
) -> Figure:
    """The terms of an update by size, and the efficiency against ranks.

    Args:
        title: of the figure.
        stacks: terms, the same for each size, by its name.
        lines: per axis along which the run grows, the efficiency by ranks.
        least: efficiency below which a run is said not to scale.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5), layout="constrained")
    times, efficiencies = figure.subplots(1, 2)
    columns = [[1000 * term.seconds for term in found] for found in stacks.values()]
    names = [term.name for term in next(iter(stacks.values()))]
    rows = dict(zip(names, zip(*columns, strict=True), strict=True))
    shown = {name: row for name, row in rows.items() if max(row) > 0.005 * max(map(sum, columns))}
    _stacked(times, [*stacks], shown, [f"C{names.index(name)}" for name in shown])
    times.set(
        title="Time of an update, foreseen", ylabel="ms (terms below 0.5 % left out)", xlabel="members × replicas"
    )
    times.set_ylim(0, 1.5 * max(map(sum, columns)))
    for (axis, found), marker in zip(lines.items(), "os", strict=True):
        efficiencies.plot(list(found), list(found.values()), marker=marker, markersize=4, label=f"more {axis}")
    efficiencies.axhline(least, color="grey", linewidth=1, linestyle=":", label=f"{100 * least:.0f} %")
    efficiencies.set(title="Efficiency, the same work per rank", ylabel="1 = as at the smallest size")
    ticks = sorted({world for found in lines.values() for world in found})
    _over_ranks(efficiencies, [tick for tick in ticks if (tick & -tick).bit_length() % 3 == 1] or ticks)
    efficiencies.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    figure.suptitle(title, fontsize="medium")
    return figure
