"""One picture of a report: what it shows in words, the figure, the numbers behind it, and how all of them look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dist_dash.comparison.markup import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.5  # inches: one column of the page, and letters of 10 points stay readable
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
"""Okabe & Ito (2008), for the colour-blind as well, their yellow, which is pale on white, replaced by a brown."""
MARKERS, DASHES = "osD^vP*X", ("-", "--", ":", "-.")
ENSEMBLE = "#111111"
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
    "savefig.dpi": 130,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "dist-dash",  # equal runs, equal bytes
}


class NotHere(Exception):
    """A picture cannot be drawn of this run; the text says why, in one sentence that the report shows in its place."""


@dataclass(frozen=True)
class Picture:
    """A figure with its caption and its data.

    Args:
        name: of its files: lower-case letters, digits, hyphens.
        title: a heading.
        caption: what is drawn, how it was computed (which data, how many samples, which settings), and how to read it.
        figure: drawn, not yet saved.
        data: columns of its CSV, of equal length: every number in the figure.
        findings: numbers that a reader takes away, by name: shown beside the figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    data: Mapping[str, Sequence[Any]]
    findings: Mapping[str, str] = field(default_factory=dict)


class Ledger:
    """What a picture draws, written down while it is drawn: rows of its CSV, which then holds no other numbers.

    Args:
        columns: their names.
    """

    def __init__(self, *columns: str) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in columns}

    @property
    def data(self) -> dict[str, list[Any]]:
        """The columns, of equal length."""
        return self._columns

    def add(self, *values: Any) -> None:
        """One row, in the order of the columns."""
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def line(self, axes: Axes, panel: str, label: str, x: ArrayLike, y: ArrayLike, **style: Any) -> None:
        """Draw a line and write down its points: columns are panel, label, x, y."""
        along, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
        axes.plot(along, values, label=style.pop("shown_as", label), **style)
        for one, other in zip(along.tolist(), values.tolist(), strict=True):
            self.add(panel, label, one, other)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches, that finds room for its labels itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def drawable(name: Any, most: int = 48) -> str:
    """A name for a picture: no control characters, which SVG does not allow, and not longer than `most`."""
    text = printable(str(name))
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def colour(index: int) -> str:
    """The colour of a member, a pair or a run."""
    return COLOURS[index % len(COLOURS)]


def of_member(index: int) -> dict[str, Any]:
    """Colour and dashes of a member's line."""
    return {"color": colour(index), "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def of_predictor(name: str) -> dict[str, Any]:
    """Style of the line of `ensemble` or of `member 3`."""
    if name == "ensemble":
        return {"color": ENSEMBLE, "linewidth": 2.4, "zorder": 3}
    return of_member(int(name.rpartition(" ")[2]))


def of_group(index: int, name: str = "") -> dict[str, Any]:
    """Colour, dashes and marker of a group of runs; its label where it has a name."""
    label = {"label": drawable(name)} if name else {}
    return {**of_member(index), "marker": MARKERS[index % len(MARKERS)], **label}


def tidy(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, names of the axes, a pale grid, no box."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, axes: Axes, columns: int = 5) -> None:
    """One legend for all panels, under them."""
    handles, labels = axes.get_legend_handles_labels()  # lines first, whatever was drawn first
    bars = [index for index, label in enumerate(labels) if label in {one.get_label() for one in axes.containers}]
    order = [*bars, *(index for index in range(len(labels)) if index not in bars)]
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))


def grid_of(panels: int, height: float, columns: int = 2, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels in rows.

    Args:
        panels: at least one.
        height: of a row, in inches.
        columns: at most.
        shared: `sharex`, `sharey`.
    """
    rows = -(-panels // columns)
    figure = new_figure(height * rows)
    every = figure.subplots(rows, min(panels, columns), squeeze=False, **shared).ravel().tolist()
    for unused in every[panels:]:
        unused.set_visible(False)
    return figure, every[:panels]
