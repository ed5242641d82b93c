"""Learning curves: training loss and accuracy of each member, held-out accuracy and NLL of members and ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.picture import Ledger, NotHere, Picture, grid_of, legend_below, of_predictor, tidy
from dist_dash.report.readings import Array, numbers, per_member, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN = (("loss", "training loss", "nats"), ("accuracy", "training accuracy", "share of samples"))
HELD_OUT = (("accuracy", "accuracy", "share of samples"), ("nll", "NLL", "nats"))
UNREADABLE = 5.0  # times the last value: what is far above it, at the start of training, is left out of the panel


def learning_curves(run: FinishedRun) -> Picture:
    """Up to four panels over epochs.

    Raises:
        NotHere: the run's record holds neither training nor evaluation lines.
    """
    train, held_out = run.lines("train"), run.lines("eval")
    panels = [(title, unit, *_of_members(train, name)) for name, title, unit in TRAIN]
    split = str(held_out[-1].get("split", "held-out")) if held_out else ""
    panels += [(f"{split} {title}", unit, *_of_evaluations(held_out, name)) for name, title, unit in HELD_OUT]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        raise NotHere("The run's record holds no lines of training or evaluation, so there are no learning curves.")
    figure, every = grid_of(len(panels), 3.1, sharex=True)
    ledger = Ledger("panel", "of", "epoch", "value")
    for axes, (title, unit, curves, _) in zip(every, panels, strict=True):
        for label, (epochs, values) in curves.items():
            dots = {"marker": "o", "markersize": 3.5} if label == "ensemble" else {}
            ledger.line(axes, title, label, epochs, values, **of_predictor(label), **dots)
        tidy(axes, title, "epoch", unit)
        _limit(axes, title, [values for _, values in curves.values()])
    fullest = max(range(len(panels)), key=lambda index: len(panels[index][2]))
    legend_below(figure, every[fullest])
    return Picture(
        "learning-curves",
        "Learning curves",
        _caption(bool(train), held_out, split, max(window for *_, window in panels)),
        figure,
        ledger.data,
    )


Curves = dict[str, tuple[Array, Array]]


def _of_members(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[Curves, int]:
    epochs, values, window = thinned(*per_member(lines, name))
    return {f"member {i}": (epochs, values[:, i]) for i in range(values.shape[1])}, window


def _of_evaluations(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[Curves, int]:
    scored = [{**line, "scores": [one.get(name) for one in line["members"]]} for line in lines if "members" in line]
    epochs, values = per_member(scored, "scores")
    curves = {f"member {i}": (epochs, values[:, i]) for i in range(values.shape[1])}
    ensemble = [line for line in lines if isinstance(line.get("ensemble"), dict)]  # a joined run has none of them
    if ensemble:
        at = np.array(numbers([line.get("epoch") for line in ensemble]))
        curves["ensemble"] = at, np.array(numbers([line["ensemble"].get(name) for line in ensemble]))
    return curves, 1


def _limit(axes: Axes, title: str, curves: Sequence[Array]) -> None:
    """Leave large values at the start of training out of the panel: they would flatten the rest."""
    values = np.concatenate(curves)
    finite = values[np.isfinite(values)]
    last = [one[np.isfinite(one)][-1] for one in curves if np.isfinite(one).any()]
    if not len(finite) or "accuracy" in title:
        return
    top = max(UNREADABLE * max(last), float(np.percentile(finite, 90)))
    if 0 < top < finite.max():
        axes.set_ylim(top=top)


def _caption(trained: bool, held_out: Sequence[Mapping[str, Any]], split: str, window: int) -> str:
    parts = []
    if trained:
        how = f", each point the mean of {window} lines of the record" if window > 1 else ""
        parts.append(
            "Training panels: mean over the updates since the line before, on augmented training samples with the "
            f"labels trained on{how}; where labels are noisy, a training accuracy near 1 means that the noise was "
            "memorised."
        )
    if held_out:
        parts.append(
            f"{split.capitalize()} panels: each evaluation during training on the {split} split, without calibration; "
            "the ensemble is the mean of the members' probabilities. An ensemble above its members' accuracy and below "
            "their NLL is what averaging gains; a rising NLL is overconfidence."
        )
    else:
        parts.append("The record holds no evaluation during training, so nothing is drawn of held-out samples.")
    return " ".join(parts)
