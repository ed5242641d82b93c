"""Pictures that compare the groups of a section: differences to baselines, quality, how the members differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dist_dash.comparison.metric_names import DISAGREEMENT, better, deciding, figure_of, percent
from dist_dash.comparison.section import Group, Section
from dist_dash.report.picture import (
    COLOURS,
    Ledger,
    NotHere,
    Picture,
    drawable,
    grid_of,
    legend_below,
    new_figure,
    of_group,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def forest(section: Section) -> Picture:
    """Differences to each baseline with their intervals, a panel a metric.

    Raises:
        NotHere: there is nothing to compare.
    """
    metrics = [*deciding(section.metrics), *(metric for metric in (DISAGREEMENT,) if metric in section.metrics)]
    others = [group for group in section.groups if set(section.baselines) != {group.name}]
    if len(section.groups) < 2 or not metrics:
        raise NotHere("There is one group only, and nothing to compare it with.")
    figure, every = grid_of(len(metrics), 1.2 + 0.2 * (len(section.baselines) + 0.6) * len(others), sharey=True)
    ledger = Ledger("metric", "group", "baseline", "pairs", "difference", "low", "high")
    for axes, metric in zip(every, metrics, strict=True):
        _forest_panel(axes, section, others, metric, ledger)
    every[0].set_yticks(range(len(others)), [drawable(group.name, 36) for group in others])
    every[0].set_ylim(len(others) - 0.5, -0.5)
    legend_below(figure, every[0], 2)
    return Picture(
        "differences",
        f"Differences to {' and '.join(section.baselines)}",
        "Mean difference to the baseline, paired by seed, and its 95 % interval (bootstrap over seeds; Student's "
        "where there are fewer than 5). Filled: the interval excludes 0; hollow: the difference is not significant. "
        "The arrow in a title points to where it is better; to differ more, as in the last panel, is neither good nor "
        "bad in itself.",
        figure,
        ledger.data,
    )


def _forest_panel(axes: Axes, section: Section, others: Sequence[Group], metric: str, ledger: Ledger) -> None:
    unit = _unit(metric)
    step = 0.6 / len(section.baselines)
    for index, baseline in enumerate(section.baselines):
        style: dict[str, Any] = {"color": COLOURS[index], "fmt": "os^D"[index % 4], "markersize": 5, "capsize": 2}
        shown = f"difference to {drawable(baseline)}"
        for place, group in enumerate(others):
            if group.name == baseline:
                continue
            found = section.differences[group.name, baseline][metric]
            ledger.add(metric, group.name, baseline, found.n, found.mean, found.low, found.high)
            if found.mean is None:
                continue
            low, high = (found.mean if end is None else end for end in (found.low, found.high))
            at = place + step * (index - (len(section.baselines) - 1) / 2)
            ends = [[max(0.0, unit * (found.mean - low))], [max(0.0, unit * (high - found.mean))]]
            face = COLOURS[index] if found.excludes_zero else "white"
            axes.errorbar(unit * found.mean, at, xerr=ends, label=shown, markerfacecolor=face, **style)
            shown = "_"
    axes.axvline(0, color="grey", linewidth=1)
    way = {"higher": " →", "lower": " ←"}.get(better(metric) or "", "")
    tidy(axes, f"{figure_of(metric)}{', percentage points' if percent(metric) else ''}{way}", "", "")
    axes.locator_params(axis="x", nbins=4)


def quality(section: Section) -> Picture:
    """Accuracy against NLL, before and after temperature scaling, with deviations over seeds. Raises `NotHere`."""
    pairs = [("ensemble.nll", "ensemble.accuracy"), ("ensemble.cal_nll", "ensemble.accuracy")]
    return _scatter(
        section,
        pairs,
        "quality",
        "Accuracy against NLL",
        "Ensembles: mean over seeds, bars of one standard deviation. Up and to the left is better: more right, less "
        "surprised. Left without, right with temperature scaling (fitted on other samples than it is scored on).",
    )


def members(section: Section) -> Picture:
    """Disagreement and KL against the mean accuracy of a member. Raises `NotHere`."""
    accuracy = "member_mean.accuracy"
    return _scatter(
        section,
        [(accuracy, DISAGREEMENT), (accuracy, "diversity.error_correlation")],
        "members",
        "How members differ against how good they are",
        "Mean over seeds, bars of one standard deviation. Members that differ and are each as good stand higher on "
        "the left panel without standing further to its left; members that differ only because they are worse lie up "
        "and to the left. Right: a low error correlation means that members err on different samples, which is what "
        "averaging needs.",
    )


def _scatter(section: Section, pairs: Sequence[tuple[str, str]], name: str, title: str, caption: str) -> Picture:
    shown = [pair for pair in pairs if any({*pair} <= set(group.metrics) for group in section.groups)]
    if not shown:
        raise NotHere(f"The runs' scores hold no {figure_of(pairs[0][1])} or no {figure_of(pairs[0][0])}.")
    figure = new_figure(4.2)
    ledger = Ledger("group", "x_metric", "x", "x_sd", "y_metric", "y", "y_sd", "seeds")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (across, up) in zip(panels, shown, strict=True):
        for index, group in enumerate(section.groups):
            if {across, up} <= set(group.metrics):
                x, y = group.metrics[across], group.metrics[up]
                style, bars = of_group(index), {"fmt": "none", "elinewidth": 1}
                at = (_unit(across) * x.mean, _unit(up) * y.mean)
                spread = [None if s.sd is None else _unit(m) * s.sd for m, s in ((across, x), (up, y))]
                axes.errorbar(*at, xerr=spread[0], yerr=spread[1], ecolor=style["color"], **bars)
                mark = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 7}
                axes.plot(*at, label=drawable(group.name), **mark)
                ledger.add(group.name, across, x.mean, x.sd, up, y.mean, y.sd, len(group.runs))
        tidy(axes, "", _axis(across), _axis(up))
        axes.locator_params(nbins=5)
    legend_below(figure, panels[0], 3)
    return Picture(name, title, caption, figure, ledger.data)


def _unit(metric: str) -> float:
    return 100.0 if percent(metric) else 1.0


def _axis(metric: str) -> str:
    part, figure = metric.partition(".")[0], figure_of(metric).replace("_", " ")
    of = {"ensemble": "ensemble: ", "member_mean": "mean member: ", "diversity": "pairs: "}[part]
    name = figure.replace("cal nll", "NLL after scaling").replace("nll", "NLL")
    return f"{of}{name}{', %' if percent(metric) else ''}"
