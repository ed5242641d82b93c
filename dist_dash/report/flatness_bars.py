"""What `dist-dash flatness` measured, as bars: one per member, or one per group of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_dash.comparison.section import Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.files import read_json
from dist_dash.report.picture import NotHere, Picture, colour, drawable, new_figure, tidy
from dist_dash.report.readings import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "worst_rise": "Rise at the worst point",
    "eigenvalue": "Top Hessian eigenvalue",
    "trace": "Hessian trace",
}
UNITS = {"worst_rise": "nats", "eigenvalue": "nats / weight²", "trace": "nats / weight²"}
SETTINGS = ("split", "samples", "rho", "steps", "seed", "dtype")


def flatness_bars(runs: FinishedRun | Mapping[str, Sequence[FinishedRun]]) -> Picture:
    """Worst-case rise, top eigenvalue and trace: per member of one run, or per group of runs.

    Args:
        runs: one run, or runs by the name of their group in the order of display. All must have been measured with
            the same settings.

    Raises:
        NotHere: a `flatness.json` is missing or damaged, or the settings differ.
    """
    groups = {"": [runs]} if isinstance(runs, FinishedRun) else {name: list(of) for name, of in runs.items() if of}
    found = {name: [_measured(run) for run in of] for name, of in groups.items()}
    settings = _same_settings([result for of in found.values() for result in of])
    rows = [
        {"group": name, "number": number, "run": run.path.name, "member": index, **member}
        for name, of in groups.items()
        for number, (run, result) in enumerate(zip(of, found[name], strict=True))
        for index, member in enumerate(result["members"])
        if member is not None
    ]
    if not rows:
        raise NotHere("No member of these runs has a finite loss.")
    single = isinstance(runs, FinishedRun)
    shown = ("worst_rise", "one_step_rise", "eigenvalue", "trace", "trace_error") if single else tuple(PANELS)
    bars = (
        "one bar per member, its 1-step rise as a diamond, the trace with its standard error."
        if single
        else "one bar per group, the mean over its runs of their members' mean, with the standard deviation over runs "
        "where there are several; one dot per member."
    )
    return Picture(
        name="flatness",
        title="Flatness of the members" if single else "Flatness by group",
        caption=f"Of the cross-entropy on {settings['samples']} samples of the {settings['split']} split"
        f"{' with the labels that were trained on' if settings['split'] == 'train' else ''}, not augmented, networks "
        f"in evaluation mode. The worst point is the highest that {settings['steps']} steps of ascent found within "
        f"ρ = {settings['rho']:g} (2-norm over all weights). Shown: {bars} Read: lower is flatter; the numbers compare "
        "networks of one architecture, for they depend on its scale.",
        figure=_figure(rows, single),
        data={name: [row[name] for row in rows] for name in ("group", "number", "run", "member", *shown)},
        findings=_findings(rows, single),
    )


def flatness_of_groups(section: Section) -> Picture:
    """Flatness by group, of the runs that were measured. Raises `NotHere`."""
    runs = {drawable(group.name, 32): [FinishedRun(run.path) for run in group.runs] for group in section.groups}
    measured = {name: [run for run in of if run.folder.flatness.is_file()] for name, of in runs.items()}
    if not any(measured.values()):
        raise NotHere("The flatness of these members was not measured; `dist-dash flatness RUN` does it for a run.")
    return flatness_bars(measured)


def _measured(run: FinishedRun) -> dict[str, Any]:
    if not run.folder.flatness.is_file():
        raise NotHere(f"The flatness of {run.path.name} was not measured; `dist-dash flatness {run.path}` does it.")
    try:
        found = read_json(run.folder.flatness, "run")
        for member in found["members"]:
            if member is not None:
                [float(member[name]) for name in ("one_step_rise", "trace_error", *PANELS) if member[name] is not None]
        if not all(isinstance(found[name], str | int | float) for name in SETTINGS):
            raise TypeError("settings")
    except (BadInput, KeyError, TypeError, ValueError) as error:
        raise NotHere(f"The file flatness.json of {run.path.name} is damaged ({type(error).__name__}).") from error
    return dict(found)


def _same_settings(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not results:
        raise NotHere("There is no run.")
    for name in SETTINGS:
        values = list(dict.fromkeys(result[name] for result in results))
        if len(values) > 1:
            listed = ", ".join(map(str, values))
            raise NotHere(f"The runs' flatness was measured with different settings ({name}: {listed}).")
    return {name: results[0][name] for name in SETTINGS}


def _of_groups(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, tuple[float, float | None]]:
    """Per group the mean over runs of the members' mean, and the standard deviation over runs where there are two."""
    found = {}
    for group in dict.fromkeys(row["group"] for row in rows):
        own = [row for row in rows if row["group"] == group]
        runs = dict.fromkeys(row["number"] for row in own)
        means = [np.mean(numbers([row[name] for row in own if row["number"] == run])) for run in runs]
        found[group] = float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None
    return found


def _findings(rows: Sequence[Mapping[str, Any]], single: bool) -> dict[str, str]:
    found = {}
    for name, title in PANELS.items():
        for group, (mean, spread) in _of_groups(rows, name).items():
            where = "mean over members" if single else group
            found[f"{title}, {where}"] = f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}")
    return found


def _figure(rows: Sequence[Mapping[str, Any]], single: bool) -> Figure:
    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure = new_figure(3.2 if single else 1.4 + 0.4 * len(groups))
    for axes, (name, title) in zip(figure.subplots(1, 3, sharey=not single), PANELS.items(), strict=True):
        if single:
            tidy(axes, title, "member", UNITS[name])
            _member_bars(axes, rows, name)
        else:
            tidy(axes, title, UNITS[name], "")
            _group_bars(axes, rows, name)
        axes.grid(visible=False, axis="x" if single else "y")
    if not single:
        axes.set_yticks(range(len(groups)), [drawable(group, 32) for group in groups])
        axes.invert_yaxis()
    return figure


def _member_bars(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    places = range(len(rows))
    errors = numbers([row["trace_error"] for row in rows]) if name == "trace" else None
    axes.bar(places, numbers([row[name] for row in rows]), yerr=errors, capsize=4, color=colour(0), width=0.6)
    if name == "worst_rise":
        steps = numbers([row["one_step_rise"] for row in rows])
        axes.plot(places, steps, "D", color="white", markeredgecolor="black", label="after 1 step")
        axes.legend(loc="lower right", frameon=True)
    axes.set_xticks(list(places), [str(row["member"]) for row in rows])


def _group_bars(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    for place, (group, (mean, spread)) in enumerate(_of_groups(rows, name).items()):
        axes.barh(place, mean, xerr=spread, capsize=4, color=colour(place), alpha=0.6, height=0.6)
        own = numbers([row[name] for row in rows if row["group"] == group])
        aside = np.linspace(-0.2, 0.2, len(own)) if len(own) > 1 else np.zeros(1)
        axes.plot(own, place + aside, "o", color="black", markersize=2.5)
