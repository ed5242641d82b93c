"""Reliability diagrams: is a confidence of 80 % right in 80 % of the cases, before and after temperature scaling?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dist_dash.comparison.metric_names import finite
from dist_dash.comparison.section import Group, Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.metrics.calibration import Reliability, cross_fitted, reliability
from dist_dash.report.picture import (
    ENSEMBLE,
    Ledger,
    NotHere,
    Picture,
    legend_below,
    new_figure,
    of_group,
    of_predictor,
    tidy,
)
from dist_dash.report.readings import predictors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arrays = NDArray[np.floating]
Labels = NDArray[np.integer]
SCALED = (
    "After: each half of the samples is scaled by a temperature that was fitted on the other half, so that no sample "
    "is drawn with a temperature that it took part in."
)
BARS = "#c3cad3"
LEAST_SHOWN = 20  # samples in a bin: the accuracy of fewer jumps, and would set the scale
COLUMNS = ("stage", "of", "bin_low", "bin_high", "samples", "confidence", "accuracy")


def reliability_diagrams(run: FinishedRun) -> Picture:
    """Before and after temperature scaling: the ensemble as bars with counts, members as lines.

    Raises:
        NotHere: no member's predictions are numbers.
        BadInput: the run holds no predictions.
    """
    found, labels = predictors(run)
    stages = _stages(labels)
    figure = new_figure(5.4)
    grid = figure.subplots(2, len(stages), sharex=True, squeeze=False, height_ratios=[3, 1])
    ledger = Ledger(*COLUMNS)
    for (above, below), (stage, scaled) in zip(grid.T, stages.items(), strict=True):
        for name, log_probs in found.items():
            bins = reliability(scaled(log_probs), labels)
            _write_down(ledger, stage, name, bins)
            if name == "ensemble":
                _bars(above, below, bins)
            else:
                _line(above, below, bins, name)
        _finish(above, stage)
        tidy(below, "", "confidence", "samples")
    legend_below(figure, above)
    ensemble = run.evaluation["ensemble"]
    shown = {"ECE of the ensemble, before": "ece", "after (cal_ece)": "cal_ece"}
    return Picture(
        "reliability",
        "Reliability before and after temperature scaling",
        f"{len(labels)} samples of the {run.evaluation.get('split')} split in 15 equal bins of the confidence, the "
        "largest probability. Bars: accuracy of the ensemble in a bin; black strokes: its mean confidence there; "
        "lines: members. Below: samples in a bin. On the diagonal confidence is right; below it, members or ensemble "
        "are overconfident, "
        f"above it, underconfident. {SCALED if len(stages) > 1 else ''}".strip(),
        figure,
        ledger.data,
        {name: f"{value:.4f}" for name, key in shown.items() if (value := finite(ensemble.get(key))) is not None},
    )


def reliability_of_groups(section: Section) -> Picture:
    """How far accuracy lies above confidence, per group: bins pooled over its runs. Raises `NotHere` and `BadInput`."""
    figure = new_figure(4.0)
    pooled = {group.name: _pooled(group) for group in section.groups}
    stages = list(dict.fromkeys(stage for of in pooled.values() for stage in of))
    ledger = Ledger("stage", "group", "bin_low", "bin_high", "samples", "confidence", "accuracy_minus_confidence")
    grid = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for axes, stage in zip(grid, stages, strict=True):
        for index, (name, of) in enumerate(pooled.items()):
            lower, upper, count, confidence, gap = of[stage]
            there = count >= LEAST_SHOWN
            axes.plot(confidence[there], gap[there], **of_group(index, name), markersize=4)
            for row in zip(*(part.tolist() for part in (lower, upper, count, confidence, gap)), strict=True):
                ledger.add(stage, name, *row)
        axes.axhline(0, color="grey", linewidth=1)
        tidy(axes, stage, "confidence", "accuracy − confidence" if axes is grid[0] else "")
    legend_below(figure, grid[0], 3)
    return Picture(
        "reliability",
        "Reliability before and after temperature scaling",
        "Ensembles, samples of all runs of a group pooled in 15 equal bins of the confidence; a point is a bin with "
        f"at least {LEAST_SHOWN} of them, the others are in the CSV. On the line confidence is right; below it, "
        "overconfident; "
        f"above it, underconfident. {SCALED if len(stages) > 1 else ''}".strip(),
        figure,
        ledger.data,
    )


def _stages(labels: Labels) -> dict[str, Callable[[Arrays], Arrays]]:
    stages: dict[str, Callable[[Arrays], Arrays]] = {"before scaling": lambda log_probs: log_probs}
    if len(labels) > 1:
        stages["after scaling"] = lambda log_probs: cross_fitted(log_probs, labels)
    return stages


Bins = tuple[Arrays, Arrays, Arrays, Arrays, Arrays]


def _pooled(group: Group) -> dict[str, Bins]:
    """By stage: lower and upper edges, samples, mean confidence, accuracy − confidence; NaN where a bin is empty."""
    sums: dict[str, list[Reliability]] = {}
    for run in group.runs:
        found, labels = predictors(FinishedRun(run.path))
        for stage, scaled in _stages(labels).items():
            sums.setdefault(stage, []).append(reliability(scaled(found["ensemble"]), labels))
    if not sums:
        raise NotHere("There are no predictions.")
    pooled: dict[str, Bins] = {}
    for stage, bins in sums.items():
        counts = np.array([one.count for one in bins], np.float64)
        total = counts.sum(0)
        with np.errstate(invalid="ignore"):
            confidence = np.nansum([one.confidence * one.count for one in bins], 0) / total
            accuracy = np.nansum([one.accuracy * one.count for one in bins], 0) / total
        pooled[stage] = (bins[0].lower, bins[0].upper, total, confidence, accuracy - confidence)
    return pooled


def _write_down(ledger: Ledger, stage: str, name: str, bins: Reliability) -> None:
    columns = (bins.lower, bins.upper, bins.count, bins.confidence, bins.accuracy)
    for row in zip(*(np.asarray(column).tolist() for column in columns), strict=True):
        ledger.add(stage, name, *row)


def _bars(above: Axes, below: Axes, bins: Reliability) -> None:
    width, middle = bins.upper - bins.lower, (bins.lower + bins.upper) / 2
    above.bar(middle, bins.accuracy, width, color=BARS, edgecolor="white", label="ensemble: accuracy")
    there = bins.count > 0
    ends = bins.confidence[there], bins.lower[there], bins.upper[there]
    above.hlines(*ends, color=ENSEMBLE, linewidth=2, label="ensemble: confidence", zorder=3)
    below.bar(middle, bins.count, width, color=BARS, edgecolor="white")


def _line(above: Axes, below: Axes, bins: Reliability, name: str) -> None:
    style = of_predictor(name)
    there = bins.count > 0
    above.plot(bins.confidence[there], bins.accuracy[there], label=name, marker=".", linewidth=0.9, **style)
    below.stairs(bins.count, np.append(bins.lower, bins.upper[-1]), linewidth=0.9, **style)


def _finish(axes: Axes, stage: str) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    tidy(axes, stage, "", "accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
