"""How each pair of members differs: matrices of disagreement, KL, error correlation and cosine of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.picture import Ledger, NotHere, Picture, grid_of
from dist_dash.report.readings import Array, kept_members

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# name, title, number format, colours, whether 1 is its end (and −1 the other) rather than the largest value
PANELS = (
    ("disagreement", "disagreement, % of samples", "{:.2f}", "viridis", False),
    ("kl", "KL(row ‖ column), nats", "{:.3f}", "viridis", False),
    ("error_correlation", "error correlation", "{:.2f}", "RdBu_r", True),
    ("weight_cosine", "cosine of weights", "{:.2f}", "RdBu_r", True),
)
MOST_ANNOTATED = 12


def pairwise_matrices(run: FinishedRun) -> Picture:
    """A heat map for each pairwise measure in `evaluation.json`.

    Raises:
        NotHere: there is one member only, or no pairwise measure.
    """
    names = [f"{number}" for number in kept_members(run)]
    if len(names) < 2:
        raise NotHere("The ensemble has one member, so there is no pair of members to compare.")
    pairwise = (run.evaluation.get("diversity") or {}).get("pairwise") or {}
    found = [panel for panel in PANELS if pairwise.get(panel[0]) is not None]
    if not found:
        raise NotHere("evaluation.json holds no pairwise measure of diversity.")
    figure, every = grid_of(len(found), 3.4)
    ledger = Ledger("measure", "row_member", "column_member", "value")
    for axes, (name, title, form, colours, signed) in zip(every, found, strict=True):
        matrix = np.array(pairwise[name], np.float64)
        _heat_map(axes, 100 * matrix if name == "disagreement" else matrix, names, form, colours, signed)
        axes.set_title(title)
        for (row, column), value in np.ndenumerate(matrix):
            ledger.add(name, names[row], names[column], float(value))
    return Picture("pairwise-matrices", "How each pair of members differs", _caption(run), figure, ledger.data)


def _heat_map(axes: Axes, matrix: Array, names: list[str], form: str, colours: str, signed: bool) -> None:
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    finite = off[np.isfinite(off)]
    top = 1.0 if signed else float(finite.max(initial=0.0)) or 1.0
    # The diagonal says nothing: it is left white, so that the colours tell the pairs apart.
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    image = axes.imshow(shown, cmap=colours, vmin=-1.0 if signed else 0.0, vmax=top)
    axes.figure.colorbar(image, ax=axes, shrink=0.85)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="member", ylabel="member")
    if len(matrix) > MOST_ANNOTATED:
        return
    backgrounds = image.to_rgba(matrix)
    for (row, column), value in np.ndenumerate(matrix):
        if not np.isfinite(value):
            continue
        colour = "black" if row == column else _ink(backgrounds[row, column])
        size = 9 if len(matrix) <= 6 else 7
        axes.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=size)


def _ink(background: Any) -> str:
    """Black or white, whichever is readable on the background."""
    red, green, blue = background[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _caption(run: FinishedRun) -> str:
    evaluation = run.evaluation
    return (
        f"From evaluation.json, {evaluation.get('samples')} samples of the {evaluation.get('split')} split. "
        "Disagreement: share of samples on which two members choose different classes. KL: mean divergence of the "
        "column's prediction from the row's, not symmetric. Error correlation: of being wrong, sample by sample; 1 "
        "where two members err on the same samples, 0 where their errors have nothing to do with each other. Members "
        "that differ usefully have high disagreement and KL and a low error correlation at a good accuracy of their "
        "own. The diagonal is left white."
    )
