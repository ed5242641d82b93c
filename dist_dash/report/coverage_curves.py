"""Accuracy on the most confident samples, against the share of samples that is kept (selective prediction)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dist_dash.comparison.metric_names import finite
from dist_dash.comparison.section import Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.metrics.accuracy import coverage_accuracy
from dist_dash.report.picture import (
    Ledger,
    NotHere,
    Picture,
    drawable,
    legend_below,
    new_figure,
    of_group,
    of_predictor,
    tidy,
)
from dist_dash.report.readings import Array, predictors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 100
LEAST_SHOWN = 0.05  # coverage: the accuracy of a handful of samples jumps, and would set the scale
HOW = (
    "Samples are taken in the order of their confidence (largest probability), the most confident first; coverage is "
    "the share that is taken, and the curve is the accuracy on it, samples of equal confidence each counted with the "
    "mean of their tie. At coverage 1 it is the plain accuracy, its mean over all coverages is the AAC. The higher "
    "and the flatter, the better the confidence tells right from wrong."
)


def coverage(run: FinishedRun) -> Picture:
    """The curve of the ensemble and of each member. Raises `NotHere` and `BadInput` where there are no predictions."""
    found, labels = predictors(run)
    figure = new_figure(4.2)
    axes = figure.subplots()
    ledger = Ledger("panel", "of", "coverage", "accuracy")
    curves = []
    for name, log_probs in found.items():
        shares, accuracies = curve(coverage_accuracy(log_probs, labels))
        ledger.line(axes, "coverage", name, shares, accuracies, **of_predictor(name))
        curves.append((shares, accuracies))
    _finish(figure, axes, curves)
    caption = f"Of {len(labels)} samples of the {run.evaluation.get('split')} split. {HOW}"
    findings = {}
    if (aac := finite(run.evaluation["ensemble"].get("aac"))) is not None:
        findings["AAC of the ensemble"] = f"{100 * aac:.2f} %"
    return Picture("coverage", "Accuracy against coverage", caption, figure, ledger.data, findings)


def coverage_of_groups(section: Section) -> Picture:
    """The mean curve of each group's ensembles, over its runs. Raises `NotHere` and `BadInput`."""
    figure = new_figure(4.6)
    axes = figure.subplots()
    ledger = Ledger("panel", "group", "coverage", "accuracy")
    curves = []
    for index, group in enumerate(section.groups):
        own = [_ensemble(FinishedRun(run.path)) for run in group.runs]
        if len({len(accuracies) for _, accuracies in own}) > 1:
            raise NotHere("The runs were evaluated on different numbers of samples.")
        shares, mean = own[0][0], np.mean([accuracies for _, accuracies in own], axis=0)
        style = {**of_group(index), "marker": None, "shown_as": drawable(group.name)}
        ledger.line(axes, "coverage", group.name, shares, mean, **style)
        curves.append((shares, mean))
    _finish(figure, axes, curves, columns=3)
    caption = f"Ensembles; mean over the runs of a group. {HOW}"
    return Picture("coverage", "Accuracy against coverage", caption, figure, ledger.data)


def curve(accuracies: Array) -> tuple[Array, Array]:
    """Coverages and accuracies at, at most, `MOST_POINTS` of them, evenly spaced; the last is coverage 1."""
    count = len(accuracies)
    kept = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    return (kept + 1) / count, accuracies[kept]


def _ensemble(run: FinishedRun) -> tuple[Array, Array]:
    found, labels = predictors(run)
    return curve(coverage_accuracy(found["ensemble"], labels))


def _finish(figure: Figure, axes: Axes, curves: Sequence[tuple[Array, Array]], columns: int = 5) -> None:
    tidy(axes, "accuracy on the most confident samples", "coverage, share of samples", "accuracy")
    shown = np.concatenate([values[(shares >= LEAST_SHOWN) | (shares == 1)] for shares, values in curves])
    low, high = float(shown.min()), float(shown.max())
    margin = max(0.003, 0.08 * (high - low))
    axes.set(xlim=(0, 1.01), ylim=(max(0.0, low - margin), min(1.0, high) + min(margin, 0.01)))
    legend_below(figure, axes, columns)
