"""Pictures of `shift.json`: scores against severity, the corruptions themselves, detection of OOD samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.files import read_json
from dist_dash.report.picture import COLOURS, Ledger, NotHere, Picture, drawable, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OF_ENSEMBLE, OF_MEMBERS, SINGLE = COLOURS[0], COLOURS[1], "#999999"
_CALIBRATED = {"accuracy": "accuracy", "cal_nll": "calibrated NLL, nats", "cal_ece": "calibrated ECE"}
_PLAIN = {"accuracy": "accuracy", "nll": "NLL, nats", "ece": "ECE"}
_SCORES = {
    "entropy": ("entropy of the mean", COLOURS[0], "-"),
    "max_probability": ("1 − max probability", COLOURS[1], "--"),
    "mutual_information": ("mutual information", COLOURS[2], "-."),
    "variance": ("variance of the members", COLOURS[3], ":"),
}
_PIXELS_OF_SHEET = 128
_NAME = 28


def severity(run: FinishedRun) -> Picture:
    """Accuracy, NLL and ECE (both calibrated, where possible) against severity.

    Raises:
        NotHere: there is no `shift.json`.
    """
    found = _found(run)
    # Of a single sample nothing is left to fit a temperature on.
    panels = _PLAIN if found["clean"]["ensemble"]["cal_nll"] is None else _CALIBRATED
    rows = list(_rows(found, list(panels)))
    figure = new_figure(3.7, 9.5)
    for axes, (key, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        _against_severity(axes, rows, key)
        axes.set(xlabel="severity (0: clean)", title=label, xticks=sorted({row["severity"] for row in rows}))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(0, 1)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    errors = found["mean_corruption_error"]
    hardest = min(found["corrupted"], key=lambda name: _mean_accuracy(found["corrupted"][name]))
    return Picture(
        name="shift-severity",
        title="Under corruption",
        caption=f"Scores of {found['samples']} test samples under {len(found['corruptions'])} corruptions of rising "
        "severity: bold the mean over all corruptions, of the ensemble and of its members; thin, the ensemble under "
        f"each corruption alone. Nothing is fitted under corruption: temperatures are from {found['fitted_on']}. "
        + " ".join([f"Severities: {found['severities_from']}.", *found["remarks"]]),
        figure=figure,
        data={name: [row[name] for row in rows] for name in rows[0]},
        findings={
            "mean error under corruption, ensemble": f"{errors['ensemble']:.2%}",
            "mean error under corruption, members": f"{errors['member_mean']:.2%}",
            "hardest corruption": f"{hardest}, mean accuracy {_mean_accuracy(found['corrupted'][hardest]):.2%}",
        },
    )


def corruption_errors(run: FinishedRun) -> Picture:
    """The error under each corruption relative to a baseline's, and its mean, the mCE.

    Raises:
        NotHere: there is no `shift.json`, or it was made without a baseline.
    """
    found = _found(run)
    if "baseline" not in found:
        raise NotHere("Errors were compared with no other classifier's: `dist-dash shift RUN --baseline …` does that.")
    base, names = found["baseline"], list(found["baseline"]["errors"])
    figure = new_figure(0.3 * len(names) + 1.7, 7.0)
    axes, rows = figure.subplots(), np.arange(len(names))
    for place, (who, label) in enumerate((("ensemble", "ensemble"), ("member_mean", "members, mean"))):
        ce, colour = [base[who]["ce"][name] for name in names], COLOURS[place]
        axes.barh(rows + 0.4 * place - 0.2, ce, height=0.38, color=colour, label=label)
        axes.axvline(base[who]["mce"], color=colour, linestyle="--", label=f"mCE, {label}")
    axes.axvline(1, color=SINGLE, linewidth=0.8, label="the baseline")
    axes.set_yticks(rows, [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="corruption error (1: as the baseline)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    pairs = [(kind, who) for kind in ("ce", "relative_ce") for who in ("ensemble", "member_mean")]
    return Picture(
        name="shift-corruption-errors",
        title="Corruption errors",
        caption=f"The sum of the errors over the severities of each corruption, divided by that of {base['name']}; "
        "less than 1 is better than it. Broken lines: the mean over the corruptions, mCE. The CSV also has the "
        "relative corruption errors, of the rise above the clean error.",
        figure=figure,
        data={
            "corruption": names,
            **{f"{kind}, {who}": [base[who][kind][name] for name in names] for kind, who in pairs},
        },
        findings={
            "mCE, ensemble": f"{base['ensemble']['mce']:.1%}",
            "mCE, members": f"{base['member_mean']['mce']:.1%}",
        },
    )


def corruptions(run: FinishedRun) -> Picture:
    """One test image under every corruption and severity.

    Raises:
        NotHere: there is no `shift.json`, the samples are no images, or the data are not at hand.
    """
    found = _found(run)
    if found["severities_from"].startswith("published"):
        raise NotHere("The corrupted images are published ones, which the run does not hold.")
    sheet = list(_sheet(run, found))
    names = list(dict.fromkeys(row["corruption"] for row in sheet))
    levels = [0, *found["severities"]]
    figure = new_figure(1.1 * len(names) + 0.3, 1.1 * len(levels) + 1.4)
    grid = figure.subplots(len(names), len(levels), squeeze=False)
    for row in sheet:
        axes = grid[names.index(row["corruption"]), levels.index(row["severity"])]
        axes.imshow(row["image"], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        if row["corruption"] == names[0]:
            axes.set_title("clean" if row["severity"] == 0 else str(row["severity"]), fontsize="small")
        if row["severity"] == 0:
            axes.set_ylabel(row["corruption"].replace("_", "\n"), rotation=0, ha="right", va="center", fontsize="small")
    return Picture(
        name="shift-corruptions",
        title="The corruptions",
        caption="One test image as it is and under each corruption, severity rising from left to right. Its "
        "CSV has the mean change of a value, as a share of the range.",
        figure=figure,
        data={name: [row[name] for row in sheet] for name in ("corruption", "severity", "sample", "mean_change")},
    )


def detection(run: FinishedRun) -> Picture:
    """For each OOD set: the two distributions of the entropy, and the ROC curve of each score.

    Raises:
        NotHere: there is no `shift.json`.
    """
    ood = _found(run)["ood"]
    sets = ood["sets"]
    figure = new_figure(3 * len(sets) + 0.5, 9.5)
    grid = figure.subplots(len(sets), 3, squeeze=False)
    ledger = Ledger("ood_set", "curve", "score", "x", "share_of_test_samples", "share_of_other_data")
    for row, one in zip(grid, sets, strict=True):
        second = "mutual_information" if "mutual_information" in one["histograms"] else "max_probability"
        for axes, score in zip(row, ("entropy", second), strict=False):
            _histogram(axes, one, score, ledger)
        _roc(row[2], one, ledger)
        row[0].set_ylabel("share of samples")
    shown = [axes.get_legend_handles_labels() for axes in (grid[0, 0], grid[0, 2])]
    handles, labels = ([*first, *second] for first, second in zip(*shown, strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return Picture(
        name="shift-detection",
        title="Telling other data apart",
        caption=f"Uncertainty of the ensemble on {ood['samples']} test samples and on samples of other data ("
        + "; ".join(f"{one['name']}: {one['text']}" for one in sets)
        + "). Left and middle: distributions, over bins of equal width; right: ROC curves with the other data as the "
        "positive class. The less two distributions overlap, the better; an area (AUROC) of 0.5 is chance, and below "
        "it the ensemble is surer of the other data than of its own. In the CSV, x is a bin's left "
        "edge; of ROC curves it is empty.",
        figure=figure,
        data=ledger.data,
        findings={
            f"AUROC of the entropy, {one['name']}": f"{one['ensemble']['entropy']['auroc']:.3f} "
            f"(members: {one['member_mean']['entropy']['auroc']:.3f})"
            for one in sets
        },
    )


# -- parts -------------------------------------------------------------------------------------------------------------


def _found(run: FinishedRun) -> dict[str, Any]:
    if not run.folder.shift.is_file():
        raise NotHere("Nothing is known about corrupted or other data: `dist-dash shift RUN` was not run.")
    found: dict[str, Any] = read_json(run.folder.shift, "run")
    if "severities_from" not in found:
        raise NotHere("shift.json is of an older version, with other severities: run `dist-dash shift RUN` again.")
    return found


def _rows(found: dict[str, Any], keys: list[str]) -> Iterator[dict[str, Any]]:
    """One row per line and severity: `line` is a corruption, `ensemble` or `member_mean` (means over corruptions)."""
    clean = found["clean"]
    for line in ("ensemble", "member_mean"):
        for level, entry in [("0", clean), *found["mean"].items()]:
            yield {"line": line, "severity": int(level), **{key: entry[line][key] for key in keys}}
    for name, levels in found["corrupted"].items():
        for level, entry in [("0", clean), *levels.items()]:
            yield {"line": name, "severity": int(level), **{key: entry["ensemble"][key] for key in keys}}


def _mean_accuracy(levels: dict[str, Any]) -> float:
    return float(np.mean([entry["ensemble"]["accuracy"] for entry in levels.values()]))


def _against_severity(axes: Axes, rows: list[dict[str, Any]], key: str) -> None:
    styles: dict[str, dict[str, Any]] = {
        "ensemble": {"color": OF_ENSEMBLE, "linewidth": 2.5, "marker": "o", "label": "ensemble", "zorder": 3},
        "member_mean": {
            "color": OF_MEMBERS,
            "linewidth": 2.5,
            "marker": "s",
            "linestyle": "--",
            "label": "members, mean",
        },
    }
    thin = {"color": SINGLE, "linewidth": 0.8, "alpha": 0.7, "label": "ensemble, each corruption"}
    for line in dict.fromkeys(row["line"] for row in rows):
        own = [row for row in rows if row["line"] == line]
        axes.plot([row["severity"] for row in own], [row[key] for row in own], **styles.get(line, thin))
        if line not in styles:
            thin["label"] = "_"


def _sheet(run: FinishedRun, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The cells of the contact sheet; `image` is `[H, W]` or `[H, W, 3]` in 0 … 1."""
    from dist_dash.analysis.shift.corruptions import CORRUPTIONS, corrupted
    from dist_dash.analysis.shift.values import values_of
    from dist_dash.data.source import UnreadableSample

    try:
        data = run.data()
    except BadInput as error:
        raise NotHere(f"The data are not at hand: {error}.") from error
    if len(data.shape) != 3:
        raise NotHere("The samples are no images.")
    index = found["example"]
    try:
        sample = data.test.evaluation(index)
    except UnreadableSample as error:
        raise NotHere(f"The test image {error.name} cannot be read.") from error
    values = values_of(data, found["seed"])
    for name in found["corruptions"]:
        for level in (0, *found["severities"]):
            changed = values.unit(corrupted(sample, values, CORRUPTIONS[name], level, found["seed"], index))
            change = float(np.abs(changed - values.unit(sample)).mean())
            row = {"corruption": name, "severity": level, "sample": index, "mean_change": change}
            yield row | {"image": _shown(changed)}


def _shown(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """For the eye: colours of three channels, else the first; a large image by fewer pixels."""
    step = -(-max(image.shape[1:]) // _PIXELS_OF_SHEET)
    small = image[:, ::step, ::step]
    return small.transpose(1, 2, 0) if len(small) == 3 else small[0]


def _histogram(axes: Axes, one: dict[str, Any], score: str, ledger: Ledger) -> None:
    histogram = one["histograms"][score]
    edges, name = histogram["edges"], _SCORES[score][0]
    axes.stairs(histogram["in"], edges, fill=True, color=OF_ENSEMBLE, alpha=0.5, label="test samples")
    axes.stairs(histogram["out"], edges, color=OF_MEMBERS, linewidth=1.8, label="other data")
    axes.set(xlabel=f"{name}: AUROC {one['ensemble'][score]['auroc']:.3f}")
    axes.set_title(drawable(one["name"], _NAME), parse_math=False)
    for left, inside, outside in zip(edges, histogram["in"], histogram["out"], strict=False):
        ledger.add(one["name"], "histogram", score, left, inside, outside)


def _roc(axes: Axes, one: dict[str, Any], ledger: Ledger) -> None:
    axes.plot([0, 1], [0, 1], color=SINGLE, linewidth=0.8)
    for score, curve in one["roc"].items():
        name, colour, style = _SCORES[score]
        axes.plot(curve["fpr"], curve["tpr"], color=colour, linestyle=style, label=name)
        for x, y in zip(curve["fpr"], curve["tpr"], strict=True):
            ledger.add(one["name"], "roc", score, None, x, y)
    axes.set(title="ROC", xlabel="share of test samples above", ylabel="share of other data above", aspect=1)
