"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table as Grid
from rich.text import Text

from dist_dash.comparison.comparison import Comparison
from dist_dash.comparison.tables import Cell, Table, tables
from dist_dash.comparison.text import plain
from dist_dash.comparison.verdict import verdict

NAME, GAP = 24, 2  # cells that names keep at least, where they need them, and cells between columns


def as_renderable(comparison: Comparison, width: int) -> Lines:
    """All sections: tables, notes, verdict.

    Args:
        comparison: what to show.
        width: of the terminal in cells; tables with more columns than fit are shown in parts.
    """
    parts: list[RenderableType] = []
    if comparison.title:
        parts += [Text(plain(comparison.title), "bold"), Text()]
    parts += [Text(plain(note), "yellow") for note in comparison.notes]
    for section in comparison.sections:
        if section.name:
            parts += [Text(), Text(plain(section.name), "bold reverse")]
        for table in tables(section):
            parts += [Text(), *(_grid(part, i) for i, part in enumerate(_split(table, width)))]
            parts += [Text(plain(line), "dim") for line in table.legend]
        parts += [Text(), *(Text(plain(f"Note: {note}"), "yellow") for note in section.notes)]
        parts += [Text(plain(f"• {sentence}")) for sentence in verdict(section)]
    return Lines(*parts)


def _grid(table: Table, part: int) -> Grid:
    title = f"{table.title}{', continued' if part else ''}"
    grid = Grid(title=Text(plain(title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.padding, grid.show_edge = (0, GAP - 1, 0, 0), False  # the other cell of a gap is the box's
    grid.add_column("", overflow="fold")
    for heading in table.headings:
        grid.add_column(Text(_folded(heading)), justify="right", no_wrap=True)
    for name, cells in table.rows:
        grid.add_row(Text(plain(name)), *map(_entry, cells))
    return grid


def _folded(heading: str) -> str:
    return heading.replace("_", "_\n").replace(" ", "\n", 1)


def _lines(cell: Cell) -> list[str]:
    """A figure, and below it how sure it is."""
    below = [f"±{cell.spread}"] if cell.spread else list(cell.interval or ())
    return [f"{cell.value}{'*' * cell.marked}", *below]


def _entry(cell: Cell) -> Text:
    first, *below = _lines(cell)
    return Text.assemble((first, "bold" if cell.bold or cell.marked else ""), *((f"\n{line}", "dim") for line in below))


def _split(table: Table, width: int) -> Iterator[Table]:
    """The table in parts that are no wider than the terminal; each has at least one column."""
    widths = [
        GAP + max(map(cell_len, [*_folded(heading).split("\n"), *(t for _, row in table.rows for t in _lines(row[i]))]))
        for i, heading in enumerate(table.headings)
    ]
    for columns in _filled(widths, width - _names_width(table) - GAP):
        rows = tuple((name, tuple(row[i] for i in columns)) for name, row in table.rows)
        yield Table(table.title, tuple(table.headings[i] for i in columns), rows, table.legend)


def _names_width(table: Table) -> int:
    return min(NAME, max(cell_len(plain(name)) for name, _ in table.rows))


def _filled(widths: Sequence[int], room: int) -> list[list[int]]:
    found, left = [list[int]()], room
    for i, width in enumerate(widths):
        if width > left and found[-1]:
            found.append([])
            left = room
        found[-1].append(i)
        left -= width
    return found
