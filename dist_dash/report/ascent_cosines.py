"""Whether members ascend in the same direction, and whether the loss and the diversity pull the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.picture import COLOURS, Ledger, NotHere, Picture, new_figure, of_member, tidy
from dist_dash.report.readings import Array, numbers, per_member, thinned

BETWEEN, WITHIN = "between members", "within a member"


def ascent_directions(run: FinishedRun) -> Picture:
    """Cosines between members' perturbations over time; of a member's two gradients, where the method has two.

    Raises:
        NotHere: the record holds neither.
    """
    epochs, pairs = pair_cosines(run.lines("ascent"))
    within = thinned(*per_member(run.lines("train"), "ascent_cosine"))
    if not len(epochs) and not len(within[0]):
        raise NotHere(
            "The record holds no ascent directions: the method has no ascent, there is one member only, or the run was "
            "made by a version that did not record them."
        )
    ledger = Ledger("panel", "of", "epoch", "cosine")
    panels = [name for name, there in ((BETWEEN, len(epochs)), (WITHIN, len(within[0]))) if there]
    figure = new_figure(3.3)
    findings = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if panel == BETWEEN:
            ends = pairs.min(1), pairs.max(1)
            axes.fill_between(epochs, *ends, color=COLOURS[0], alpha=0.2, linewidth=0)
            for label, values in (("lowest pair", ends[0]), ("highest pair", ends[1])):
                ledger.line(axes, panel, label, epochs, values, color=COLOURS[0], linewidth=0.7)
            style = {"color": COLOURS[0], "linewidth": 2.0, "marker": "o", "markersize": 3}
            ledger.line(axes, panel, "mean of pairs", epochs, pairs.mean(1), **style)
            findings["mean over pairs and updates"] = f"{np.mean(pairs):+.3f}"
        else:
            for index, values in enumerate(within[1].T):
                ledger.line(axes, panel, f"member {index}", within[0], values, linewidth=1.0, **of_member(index))
        axes.axhline(0, color="grey", linewidth=1)
        title = "between members' perturbations" if panel == BETWEEN else "loss and diversity gradient of a member"
        tidy(axes, title, "epoch", "cosine")
        axes.legend(fontsize=8)
    return Picture("ascent-directions", "Ascent directions", _caption(panels), figure, ledger.data, findings)


def pair_cosines(lines: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
    """Epochs `[lines]` and the cosines of each pair of members `[lines, pairs]`.

    Lines in which a member has no direction (its cosine with itself is not 1), or that are of other numbers of members
    than the last one, are left out.
    """
    found = []
    for line in lines:
        rows = line.get("cosines")
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
            continue
        matrix = np.array([numbers(row) for row in rows]).reshape(len(rows), len(rows))
        pairs = matrix[np.triu_indices(len(rows), 1)]
        if len(rows) > 1 and np.isfinite(pairs).all() and (np.diag(matrix) > 0.5).all():
            found.append((line.get("epoch"), pairs))
    found = [one for one in found if len(one[1]) == len(found[-1][1])]
    if not found:
        return np.empty(0), np.empty((0, 0))
    return np.array(numbers([epoch for epoch, _ in found])), np.array([pairs for _, pairs in found])


def _caption(panels: Sequence[str]) -> str:
    parts = []
    if BETWEEN in panels:
        parts.append(
            "Between members: cosine of the angle between two members' perturbations of the same update, over all "
            "pairs; the band reaches from the lowest to the highest pair. 1: all members climb the same way, as "
            "members with equal weights would; 0: at right angles, as random directions in many dimensions are; "
            "below 0: they climb apart."
        )
    if WITHIN in panels:
        parts.append(
            "Within a member: cosine between the gradient of its loss and that of its diversity from the peers, mean "
            "over the updates since the line before. Near 0 the diversity adds a direction of its own; near 1 it "
            "only makes the radius of the ascent larger."
        )
    return " ".join(parts)
