"""One run of each group, side by side: members' predictions over training, in coordinates that all groups share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dist_dash.comparison.section import Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.metrics.diversity import mean_of_pairs
from dist_dash.report.embedding import Trace, distances, in_the_plane, read_trace
from dist_dash.report.ledger import Ledger
from dist_dash.report.picture import NotHere, Picture
from dist_dash.report.record import Array
from dist_dash.report.style import WIDTH, hide_unused, new_figure, of_group, of_member, plain, rows_of, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS, MOST_SAMPLES = 160, 256
COLUMNS = 3
Key = tuple[str, int, int]


def embedding_of_groups(section: Section) -> Picture:
    """Of one run per group, that of the lowest seed.

    Raises:
        NotHere: a run kept no predictions over training, or the runs' samples differ.
    """
    traces = _alike({group.name: read_trace(FinishedRun(group.runs[0].path)) for group in section.groups})
    kept = _kept(traces)
    keys = [(name, t, m) for name, of in traces.items() for t in kept[name] for m in range(of.log_probs.shape[1])]
    matrix = distances(np.stack([traces[name].log_probs[t, member] for name, t, member in keys]))
    points, stress = in_the_plane(matrix)
    rows, columns = rows_of(len(traces) + 1, COLUMNS)
    figure = new_figure(WIDTH, 2.75 * rows)
    every = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    ledger = Ledger("panel", "group", "member", "update", "x", "y", "distance")
    for index, (axes, (name, trace)) in enumerate(zip(every, traces.items(), strict=False)):
        _plane(axes, name, trace, keys, points, ledger)
        axes.set(xlim=_ends(points[:, 0]), ylim=_ends(points[:, 1]))
        _apart(every[len(traces)], index, name, trace, keys, matrix, ledger)
    last = every[len(traces)]
    tidy(last, "", "update", "")
    last.set_title("mean distance between members", fontsize=8.5)
    last.xaxis.label.set_size(8)
    last.set_ylim(bottom=0)
    last.legend(fontsize=6.5)
    hide_unused(every, len(traces) + 1)
    samples = len(next(iter(traces.values())).ids)
    return Picture(
        "embedding",
        "Members' predictions over training",
        "The run of the lowest seed of each group, all panels in the same coordinates: a point is a member's "
        "predictions after some update, a line follows a member from a ring to its marker at the end. Distances "
        f"approximate those between predictions (root of the mean Jensen–Shannon divergence over {samples} samples of "
        "the evaluated split) by metric multidimensional scaling; stress-1 "
        f"{stress:.3f}{', a rough guide only' if stress > 0.2 else ''}. Last panel, without that approximation: the "
        "mean of that distance over pairs of members. Lines that meet are members that become one; lines that part "
        "are members that stay different. One run a group: what seeds change is not seen.",
        figure,
        ledger.data,
    )


def _alike(traces: Mapping[str, Trace]) -> dict[str, Trace]:
    """All on the samples that they share, at most `MOST_SAMPLES` of them."""
    shared = sorted(set.intersection(*(set(trace.ids.tolist()) for trace in traces.values())))
    if not shared:
        raise NotHere("The runs kept no predictions of the same samples over training.")
    spread = np.linspace(0, len(shared) - 1, min(len(shared), MOST_SAMPLES)).round().astype(int)
    ids = np.array(shared, dtype=np.int64)[spread]
    found = {}
    for name, trace in traces.items():
        rows = np.searchsorted(trace.ids, ids)
        found[name] = Trace(trace.steps, trace.log_probs[:, :, rows], ids, trace.labels[rows])
    first = next(iter(found.values()))
    for name, trace in found.items():
        if not np.array_equal(trace.labels, first.labels) or trace.log_probs.shape[-1] != first.log_probs.shape[-1]:
            raise NotHere(f"The samples of {name} are others than those of {next(iter(found))}.")
    return found


def _kept(traces: Mapping[str, Trace]) -> dict[str, list[int]]:
    """Which evaluations become points: evenly spaced, the first and the last among them."""
    most = max(2, MOST_POINTS // sum(trace.log_probs.shape[1] for trace in traces.values()))
    found = {}
    for name, trace in traces.items():
        spread = np.linspace(0, len(trace.steps) - 1, min(len(trace.steps), most))
        found[name] = sorted(set(spread.round().astype(int).tolist()))
    return found


def _plane(axes: Axes, name: str, trace: Trace, keys: list[Key], points: Array, ledger: Ledger) -> None:
    for member in range(trace.log_probs.shape[1]):
        rows = [k for k, key in enumerate(keys) if key[0] == name and key[2] == member]
        style = of_group(member)
        axes.plot(*points[rows].T, linewidth=1.0, color=style["color"], alpha=0.8)
        axes.plot(*points[rows[:1]].T, "o", color=style["color"], markerfacecolor="white", markersize=5)
        axes.plot(*points[rows[-1:]].T, style["marker"], color=style["color"], markeredgecolor="black", markersize=7)
        for row in rows:
            x, y = points[row].tolist()
            ledger.add("plane", name, member, trace.steps[keys[row][1]], x, y, None)
    tidy(axes, "", "", "")
    axes.set_title(plain(name, 36), fontsize=8.5)
    axes.tick_params(labelsize=7)
    axes.set_box_aspect(1)


def _apart(axes: Axes, index: int, name: str, trace: Trace, keys: list[Key], matrix: Array, ledger: Ledger) -> None:
    """The mean distance between members at each evaluation; nothing of one member."""
    steps, means = [], []
    for t in dict.fromkeys(key[1] for key in keys if key[0] == name):
        rows = [k for k, key in enumerate(keys) if key[:2] == (name, t)]
        mean = mean_of_pairs(matrix[np.ix_(rows, rows)])
        if mean is not None:
            steps.append(trace.steps[t])
            means.append(mean)
            ledger.add("distance", name, None, trace.steps[t], None, None, mean)
    if steps:
        axes.plot(steps, means, label=plain(name, 36), **{**of_member(index), "linewidth": 1.2})
    axes.tick_params(labelsize=7)
    axes.set_box_aspect(1)


def _ends(values: Array) -> tuple[float, float]:
    """Limits that all panels share."""
    low, high = float(values.min()), float(values.max())
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin
