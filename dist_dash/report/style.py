"""How pictures look: sizes, colours, and names that are drawn letter by letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dist_dash.report.colours import COLOURS, colour, marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.5  # inches: one column of the page, and letters of 10 points stay readable
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
ENSEMBLE = "#111111"
DASHES = ("-", "--", ":", "-.")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that finds room for its labels itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plain(name: Any, most: int = 48) -> str:
    """A name for a picture: no control characters, which SVG does not allow, and not longer than `most`."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(name))
    if len(text) > most:
        text = f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"
    return text


def of_member(index: int) -> dict[str, Any]:
    """Colour and dashes of a member's line."""
    return {"color": colour(index), "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def of_group(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of a group of runs."""
    return {**of_member(index), "marker": marker(index)}


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


def rows_of(panels: int, columns: int = 2) -> tuple[int, int]:
    """Rows and columns for so many panels."""
    return -(-panels // columns), min(panels, columns)


def hide_unused(axes: Sequence[Axes], used: int) -> None:
    """Panels of the grid that nothing is drawn in."""
    for one in axes[used:]:
        one.set_visible(False)
