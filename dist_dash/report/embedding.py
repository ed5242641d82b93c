"""Members' predictions over training as points in a plane: do they part, or stay together?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_dash.comparison.section import Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.metrics.diversity import disagreement, mean_of_pairs
from dist_dash.report.kept_predictions import (
    Floats,
    KeptPredictions,
    distances,
    evenly,
    in_the_plane,
    on_shared_samples,
    read_trace,
)
from dist_dash.report.picture import (
    MARKERS,
    Ledger,
    NotHere,
    Picture,
    colour,
    drawable,
    grid_of,
    new_figure,
    of_group,
    of_member,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS, MOST_POINTS_OF_GROUPS = 120, 160
"""In the plane: of long runs some evaluations are left out, evenly, never the first and the last."""
MOST_WORK = 3 * 10**8
"""Probabilities that are compared: of large data some samples are left out, but for `LEAST_SAMPLES`."""
LEAST_SAMPLES, MOST_SAMPLES_OF_GROUPS = 16, 256
COLUMNS = 3
HOW = "root of the mean Jensen–Shannon divergence"


# -- one run -----------------------------------------------------------------------------------------------------------


def embedding(run: FinishedRun) -> Picture:
    """Members' predictions over training in the plane, and how far apart they are.

    Raises:
        NotHere: the run kept no predictions over training, or has one member.
    """
    trace = read_trace(run)
    members, samples, classes = trace.log_probs.shape[1:]
    if members < 2:
        raise NotHere("Whether members part needs two members; there is one.")
    kept = evenly(len(trace.steps), max(2, MOST_POINTS // members))
    pairs = len(kept) * members * (len(kept) * members - 1) // 2
    used = evenly(samples, max(LEAST_SAMPLES, MOST_WORK // (pairs * classes)))
    matrix = distances(trace.log_probs[kept][:, :, used].reshape(len(kept) * members, len(used), classes))
    points, stress = in_the_plane(matrix)
    steps = [trace.steps[t] for t in kept]
    between = [_mean(matrix[i : i + members, i : i + members]) for i in range(0, len(matrix), members)]
    differ = [_mean(disagreement(trace.log_probs[t])) for t in kept]
    ledger = Ledger("step", "member", "x", "y", "mean_distance", "mean_disagreement")
    for row, (x, y) in enumerate(points.tolist()):
        t, member = divmod(row, members)
        ledger.add(steps[t], member, x, y, between[t], differ[t])
    return Picture(
        name="embedding",
        title="Members' predictions over training",
        caption="Left: each point is a member's predictions after some update; a line follows a member from a ring "
        f"to a marker at the end. Distances in the plane approximate those between predictions ({HOW} over "
        f"{len(used)}{'' if len(used) == samples else f' of {samples}'} samples of the "
        "evaluated split, the same everywhere), by metric multidimensional scaling, started at classical scaling; "
        f"stress-1 {stress:.3f}{', so that the plane is a rough guide' if stress > 0.2 else ''}. Right, "
        f"without that approximation: that distance (at most {np.sqrt(np.log(2)):.2f}), mean over pairs of members, "
        f"and mean of the share of {samples} samples on which two members choose different classes. "
        "Read: lines that run side by side and meet are members that become one; lines that part are members that stay "
        "different.",
        figure=_figure(points.reshape(len(kept), members, 2), steps, between, differ),
        data=ledger.data,
        findings={
            "stress-1 of the plane": f"{stress:.3f}",
            "mean distance between members, first → last": f"{between[0]:.3f} → {between[-1]:.3f}",
            "mean disagreement, first → last": f"{differ[0]:.1%} → {differ[-1]:.1%}",
        },
    )


def _mean(matrix: Floats) -> float:
    mean = mean_of_pairs(matrix)
    return float("nan") if mean is None else mean


def _figure(points: Floats, steps: Sequence[int], between: Sequence[float], differ: Sequence[float]) -> Figure:
    figure = new_figure(5.0)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.5, 1])
    plane, above, below = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
    for member in range(points.shape[1]):
        own: dict[str, Any] = {"color": colour(member)}
        plane.plot(*points[:, member].T, ".-", linewidth=1.2, markersize=4, alpha=0.8, **own)
        plane.plot(*points[0, member], "o", markersize=6, markerfacecolor="white", **own)
        last: dict[str, Any] = {"markersize": 8, "markeredgecolor": "black", "linestyle": "", **own}
        plane.plot(*points[-1, member], marker=MARKERS[member % len(MARKERS)], label=f"member {member}", **last)
    tidy(plane, "Predictions in the plane", "root nats", "root nats")
    plane.set_aspect("equal", adjustable="datalim")
    figure.legend(*plane.get_legend_handles_labels(), loc="outside lower left", ncols=5)
    for axes, values in ((above, between), (below, differ)):
        axes.plot(steps, values, color="black", marker="o", markersize=4)
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    tidy(above, "Distance between members", "update", "root nats")
    tidy(below, "Disagreement of members", "update", "share of samples")
    return figure


# -- one run of each group ---------------------------------------------------------------------------------------------

Key = tuple[str, int, int]


def embedding_of_groups(section: Section) -> Picture:
    """One run per group, that of the lowest seed, side by side. Raises `NotHere`."""
    return embedding_of_runs({group.name: FinishedRun(group.runs[0].path) for group in section.groups})


def embedding_of_runs(runs: Mapping[str, FinishedRun]) -> Picture:
    """Runs side by side, in coordinates that all of them share.

    Raises:
        NotHere: a run kept no predictions over training, or the runs' samples differ.
    """
    traces = on_shared_samples({name: read_trace(run) for name, run in runs.items()}, MOST_SAMPLES_OF_GROUPS)
    most = max(2, MOST_POINTS_OF_GROUPS // sum(trace.log_probs.shape[1] for trace in traces.values()))
    kept = {name: evenly(len(trace.steps), most) for name, trace in traces.items()}
    keys = [(name, t, m) for name, of in traces.items() for t in kept[name] for m in range(of.log_probs.shape[1])]
    matrix = distances(np.stack([traces[name].log_probs[t, member] for name, t, member in keys]))
    points, stress = in_the_plane(matrix)
    figure, every = grid_of(len(traces) + 1, 2.75, COLUMNS)
    ledger = Ledger("panel", "group", "member", "update", "x", "y", "distance")
    for index, (axes, (name, trace)) in enumerate(zip(every, traces.items(), strict=False)):
        _plane(axes, name, trace, keys, points, ledger)
        axes.set(xlim=_ends(points[:, 0]), ylim=_ends(points[:, 1]))
        _apart(every[-1], index, name, trace, keys, matrix, ledger)
    last = every[-1]
    tidy(last, "", "update", "")
    last.set_title("mean distance between members", fontsize=8.5)
    last.xaxis.label.set_fontsize(8)
    last.set_ylim(bottom=0)
    last.legend(fontsize=6.5)
    samples = len(next(iter(traces.values())).ids)
    return Picture(
        "embedding",
        "Members' predictions over training",
        "The run of the lowest seed of each group, all panels in the same coordinates: a point is a member's "
        "predictions after some update, a line follows a member from a ring to its marker at the end. Distances "
        f"approximate those between predictions ({HOW} over {samples} samples of "
        "the evaluated split) by metric multidimensional scaling; stress-1 "
        f"{stress:.3f}{', a rough guide only' if stress > 0.2 else ''}. Last panel, without that approximation: the "
        "mean of that distance over pairs of members. Lines that meet are members that become one; lines that part "
        "are members that stay different. One run a group: what seeds change is not seen.",
        figure,
        ledger.data,
    )


def _plane(axes: Axes, name: str, trace: KeptPredictions, keys: list[Key], points: Floats, ledger: Ledger) -> None:
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
    axes.set_title(drawable(name, 36), fontsize=8.5)
    axes.tick_params(labelsize=7)
    axes.set_box_aspect(1)


def _apart(
    axes: Axes, index: int, name: str, trace: KeptPredictions, keys: list[Key], matrix: Floats, ledger: Ledger
) -> None:
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
        axes.plot(steps, means, label=drawable(name, 36), **{**of_member(index), "linewidth": 1.2})
    axes.tick_params(labelsize=7)
    axes.set_box_aspect(1)


def _ends(values: Floats) -> tuple[float, float]:
    """Limits that all panels share."""
    low, high = float(values.min()), float(values.max())
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin
