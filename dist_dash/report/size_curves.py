"""What each further member adds: accuracy and NLL against the number of members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dist_dash.comparison.section import Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.metrics.size_curve import size_curve
from dist_dash.report.picture import COLOURS, Ledger, NotHere, Picture, legend_below, new_figure, of_group, tidy
from dist_dash.report.readings import finite_predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SUBSETS = 100
MOST_WORK = 200_000_000  # probabilities that are averaged per size: of large data fewer subsets are drawn
PANELS = (("accuracy", "accuracy"), ("nll", "NLL"))


def sizes(run: FinishedRun) -> Picture:
    """Mean and deviation over subsets of the run's members.

    Raises:
        NotHere: there is one member only.
        BadInput: the run holds no predictions.
    """
    _, (log_probs, labels, weights) = finite_predictions(run)
    if len(log_probs) < 2:
        raise NotHere("The ensemble has one member, so there are no smaller ensembles in it.")
    most = most_subsets(log_probs)
    curve = size_curve(log_probs, labels, most, weights=weights)
    counts = [one.members for one in curve]
    figure = new_figure(3.4)
    ledger = Ledger("panel", "members", "subsets", "mean", "sd")
    for axes, (name, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        means = np.array([getattr(one, name) for one in curve])
        spreads = np.array([getattr(one, f"{name}_sd") for one in curve])
        axes.fill_between(counts, means - spreads, means + spreads, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(counts, means, color=COLOURS[0], marker="o", linewidth=2)
        for one, mean, spread in zip(curve, means.tolist(), spreads.tolist(), strict=True):
            ledger.add(name, one.members, one.subsets, mean, spread)
        _finish(axes, title, len(curve))
    return Picture(
        "sizes",
        "Scores against the number of members",
        f"{len(labels)} samples of the {run.evaluation.get('split')} split, without temperature scaling. {_how(most)} "
        "Band: one standard deviation over the subsets, which share members.",
        figure,
        ledger.data,
    )


def sizes_of_groups(section: Section) -> Picture:
    """The mean curve of each group over its runs. Raises `NotHere` and `BadInput`."""
    figure = new_figure(4.2)
    ledger = Ledger("panel", "group", "members", "mean", "sd_over_runs", "runs")
    panels = figure.subplots(1, 2)
    most, subsets = 1, MOST_SUBSETS
    for index, group in enumerate(section.groups):
        curves = []
        for run in group.runs:
            _, (log_probs, labels, weights) = finite_predictions(FinishedRun(run.path))
            subsets = most_subsets(log_probs)
            curves.append(size_curve(log_probs, labels, subsets, weights=weights))
        count = min(map(len, curves))
        most = max(most, count)
        for axes, (name, _) in zip(panels, PANELS, strict=True):
            values = np.array([[getattr(one, name) for one in curve[:count]] for curve in curves])
            means, spreads = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.full(count, np.nan)
            axes.plot(range(1, count + 1), means, **of_group(index, group.name), markersize=5)
            for size, (mean, spread) in enumerate(zip(means.tolist(), spreads.tolist(), strict=True), 1):
                ledger.add(name, group.name, size, mean, spread, len(values))
    if most < 2:
        raise NotHere("The ensembles have one member each, so there are no smaller ensembles in them.")
    for axes, (_, title) in zip(panels, PANELS, strict=True):
        _finish(axes, title, most)
    legend_below(figure, panels[0], 3)
    how = _how(subsets)
    caption = f"Mean over the runs of a group, without temperature scaling. {how} Deviations over runs are in the CSV."
    return Picture("sizes", "Scores against the number of members", caption, figure, ledger.data)


def _finish(axes: Axes, title: str, most: int) -> None:
    tidy(axes, title, "members", "nats" if title == "NLL" else "share of samples")
    axes.set_xticks(range(1, most + 1, max(1, most // 12)))


def most_subsets(log_probs: NDArray[np.floating]) -> int:
    """How many subsets of a size are looked at, of members with so many predictions."""
    return max(2, min(MOST_SUBSETS, MOST_WORK // (log_probs.shape[1] * log_probs.shape[2])))


def _how(most: int) -> str:
    return (
        f"Each size: the mean over all subsets of members ({most} drawn at random where there are more). A curve that "
        "still falls (NLL) or rises (accuracy) at its end says that more members would help; a flat one says that the "
        "members know much the same."
    )
